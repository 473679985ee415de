"""Hook of MkDocs: what the documentation site holds besides the pages in `docs/`.

Three things are added when the site is built:

- pages that stay where they belong in the repository, such as the results of benchmarks (`INCLUDED`);
- the reference of the commands, generated from the command line itself (`tools.commands`);
- pages that the navigation names by a pattern such as ``howto/*``.

Links are written as paths within the repository, so that they work there too. On the site, a link to a page of the site
leads to it, and a link to any other file of the repository becomes the file's name.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mkdocs.structure.files import File

from tools.commands import command_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
COMMANDS: Final = "reference/commands.md"
# Files of the repository, or patterns of them, and where on the site they are.
INCLUDED: Final = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "examples/README.md": "howto/examples.md",
    "lrclr/data/CHECKPOINT.md": "reference/checkpoint.md",
    "lrclr/data/samples/README.md": "reference/samples.md",
    "lrclr/data/calibration/README.md": "reference/calibration.md",
    "export/kernels/README.md": "internals/kernel.md",
    "export/lrclr_export/quantize/README.md": "internals/int8.md",
    "benchmarks/phantom/README.md": "benchmarks/dataset.md",
    "benchmarks/gpu/quarter_hour/README.md": "benchmarks/kit.md",
    "benchmarks/results/*.md": "benchmarks/{stem}.md",
    "benchmarks/results/*/README.md": "benchmarks/{folder}.md",
    # What pages of results link to; not in the navigation.
    "benchmarks/results/*/[!R]*.md": "results/{folder}/{stem}.md",
}
# A Markdown link or image, whose target holds no white space; a fenced block or code, in which links are not links.
_LINK: Final = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)\s*$|`+[^`\n]*`+(?!\]\())"
    r"|(?P<image>!?)\[(?P<text>(?:[^\[\]]|!?\[[^\]]*\](?:\([^)]*\))?)*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN: Final = re.compile(r"^(?P<indent> *)<!-- not run: (?P<why>.+?) -->$", re.MULTILINE)
_log = logging.getLogger("mkdocs.hooks.lrclr")


def completed_navigation(nav: list[Any], pages: list[str]) -> list[Any]:
    """A navigation with each pattern replaced by the pages that match it and stand nowhere else.

    A pattern that matches nothing is left out, and so is a section without pages.

    Args:
        nav: as in `mkdocs.yml`; patterns are those of `fnmatch`, in which ``*`` also matches ``/``.
        pages: every page of the site, relative to `docs/`.
    """
    return list(_completed(nav, pages, set(_named(nav))))


@cache
def included_pages() -> Mapping[Path, str]:
    """Files of the repository outside `docs/` that are pages of the site, and where on the site they are."""
    return {
        path: uri.format(stem=path.stem, folder=path.parent.name)
        for pattern, uri in INCLUDED.items()
        for path in sorted(ROOT.glob(pattern))
    }


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the included pages, and complete the navigation."""
    for path, uri in included_pages().items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    if config.nav:
        pages = sorted(file.src_uri for file in files if file.is_documentation_page())
        config.nav = completed_navigation(config.nav, pages)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site, and show which examples no test runs."""
    del config, files
    if page.file.src_uri == COMMANDS:
        markdown += command_reference()
    source = _source_of(page.file)
    markdown = _NOT_RUN.sub(lambda found: f"{found['indent']}*Not run by the tests: {found['why']}.*\n", markdown)
    return _LINK.sub(_link_writer(source, page.file.src_uri), markdown)


def _source_of(file: File) -> Path:
    return Path(file.abs_src_path) if file.abs_src_path else ROOT / "docs" / file.src_uri


def _link_writer(source: Path, uri: str) -> Callable[[re.Match[str]], str]:
    def written(found: re.Match[str]) -> str:
        target = found["target"]
        if found["code"] or re.match(r"[a-z]+:|#|<", target):
            return found[0]
        name, _, anchor = target.partition("#")
        path = Path(os.path.normpath(source.parent / name))
        if not path.exists():
            _log.warning("%s: the link to %s leads to nothing", source.relative_to(ROOT), target)
            return found[0]
        page = _uri_of(path)
        if page is None:
            return _as_name(found["text"], path)
        link = os.path.relpath(page, str(Path(uri).parent)) + (f"#{anchor}" if anchor else "")
        return f"{found['image']}[{found['text']}]({link})"

    return written


def _uri_of(path: Path) -> str | None:
    """Where a file of the repository is on the site; None if it is not there."""
    docs = ROOT / "docs"
    return included_pages().get(path) or (path.relative_to(docs).as_posix() if path.is_relative_to(docs) else None)


def _as_name(text: str, path: Path) -> str:
    """What stands on the site for a link to a file that only the repository has."""
    name = path.relative_to(ROOT).as_posix()
    return f"`{name}`" if text.strip("`") in name else f"{text} (`{name}`)"


def _named(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, str):
            yield value
        else:
            yield from _named(value)


def _completed(nav: Any, pages: list[str], named: set[str]) -> Iterator[Any]:
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            found = [page for page in pages if fnmatch.fnmatchcase(page, entry) and page not in named]
            named.update(found)
            yield from found
        elif isinstance(entry, dict) and not isinstance(next(iter(entry.values())), str):
            ((title, inside),) = entry.items()
            if completed := list(_completed(inside, pages, named)):
                yield {title: completed}
        else:
            yield entry
