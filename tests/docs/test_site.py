"""The documentation site is built without warnings, contains every page, and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
import typer
import yaml

from lrclr.cli import app
from tests import bundles
from tests.docs.pages import ROOT
from tools.commands import commands
from tools.mkdocs_hook import completed_navigation

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by `make docs`."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=bundles.environment(NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class LoadedAddresses(HTMLParser):
    """Addresses that a browser loads when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}.get(tag)
        values = dict(attrs)
        if name and (value := values.get(name)) and values.get("rel") != "canonical":
            self.addresses.append(value)


def html_pages(site: Path) -> Iterator[Path]:
    yield from sorted(site.rglob("*.html"))


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    for page in html_pages(site):
        found = LoadedAddresses()
        found.feed(page.read_text())
        assert found.addresses
        assert not [address for address in found.addresses if re.match(r"(?:[a-z]+:)?//", address)], page


def test_every_page_is_reachable_from_the_navigation(site: Path) -> None:
    home = (site / "reference" / "commands.html").read_text()
    linked = {
        (Path("reference") / href).as_posix().replace("reference/../", "")
        for href in re.findall(r'href="([^"#]+)"', home)
    }
    for page in (ROOT / "docs").rglob("*.md"):
        name = "index" if page.stem == "README" else page.stem
        address = page.relative_to(ROOT / "docs").with_name(f"{name}.html").as_posix()
        assert (site / address).is_file()
        assert address in linked, f"{page} is not in the navigation"


def test_every_link_has_a_target(site: Path) -> None:
    """Including links that the hook writes for pages that lie elsewhere in the repository."""
    for page in html_pages(site):
        for link in re.findall(r'href="([^"#?]+)', page.read_text()):
            if page.name != "404.html" and not re.match(r"[a-z]+:", link):
                assert (page.parent / unquote(link)).exists(), f"{page.relative_to(site)}: {link}"


def test_new_pages_are_added_to_the_navigation() -> None:
    nav = [
        {"How to": ["howto/install.md", "howto/prompts*", "howto/*"]},
        {"Families": ["families/index*", "families/*"]},
        {"Hospital": ["hospital/*"]},
    ]
    pages = ["families/a.md", "families/index.md", "howto/apply.md", "howto/install.md", "howto/prompts.md", "index.md"]
    assert completed_navigation(nav, pages) == [
        {"How to": ["howto/install.md", "howto/prompts.md", "howto/apply.md"]},
        {"Families": ["families/index.md", "families/a.md"]},
    ]


def test_every_command_has_a_section(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text()
    names = [name for name, _, _ in commands(typer.main.get_command(app), "lrclr", None)]
    assert len(names) > 10
    for name in names:
        assert f'id="{name.replace(" ", "-")}"' in text


def test_the_api_reference_has_the_names_in_the_readme(site: Path) -> None:
    text = (site / "reference" / "python.html").read_text()
    for name in ("lrclr.ZeroShotClassifier.from_bundle", "lrclr.verification.verify", "lrclr_export.export_bundle"):
        assert f'id="{name}"' in text


def test_the_citation_has_the_current_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
