"""Draw the pictures of the documentation that come from a real run: ``python -m tools.pictures``.

They show what the default checkpoint answers, and the bundle that `make demo` writes. Needs Debian's chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect, sync_playwright

from lrclr import ZeroShotClassifier, read_image
from lrclr.inference import save_heatmap
from lrclr.samples import sample_paths
from lrclr.web import WebOptions, WebServer, open_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
SHOWN = ("Pleural Effusion", "Cardiomegaly")
WIDE, PHONE = {"width": 1200, "height": 760}, {"width": 360, "height": 760}


def heatmap() -> None:
    """``heatmap.png``: a sample radiograph, a finding that it shows and one that it does not show."""
    (sample,) = (path for path in sample_paths() if path.stem == "effusion")
    image = read_image(sample)
    (answer,) = ZeroShotClassifier.from_checkpoint("default").predict([image])
    save_heatmap(
        ASSETS / "heatmap.png",
        image,
        answer,
        findings=SHOWN,
        panel_width=360,
        title="A synthetic radiograph with a pleural effusion",
    )


def web(bundle: Path) -> None:
    """``web-….png``: the page of `lrclr web` with findings, with a free prompt, with two views, and with an error."""
    with WebServer(open_backend(bundle), WebOptions(port=0)) as server, sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with _picture(browser, server.url, "web-findings.png", viewport=WIDE) as page:
            _choose(page, "effusion")
            _select(page)
        with _picture(browser, server.url, "web-prompt.png", viewport=WIDE) as page:
            _choose(page, "effusion")
            page.fill("#prompt", "large right pleural effusion")
            page.press("#prompt", "Enter")
            expect(page.locator("#prompts .value")).to_contain_text("%")
        with _picture(browser, server.url, "web-compare.png", viewport=WIDE, color_scheme="dark") as page:
            _choose(page, "normal")
            _choose(page, "effusion")
            page.get_by_label("Two views").check()
            _select(page)
        with (
            tempfile.TemporaryDirectory() as folder,
            _picture(browser, server.url, "web-error.png", viewport=PHONE) as page,
        ):
            (Path(folder) / "bad.dcm").write_bytes(b"no image")
            page.set_input_files("#files", [Path(folder) / "bad.dcm"])
            expect(page.locator("#errors")).to_contain_text("bad.dcm")
        browser.close()


@contextmanager
def _picture(browser: Browser, url: str, name: str, **options: Any) -> Iterator[Page]:
    """A page whose top is saved when the block ends."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(url)
    yield page
    page.mouse.move(0, 0)
    page.screenshot(path=ASSETS / name)
    context.close()


def _choose(page: Page, sample: str) -> None:
    page.get_by_role("button", name=sample, exact=True).click()
    expect(page.locator("#status")).to_contain_text(f"{sample} (sample): the answer is there")


def _select(page: Page) -> None:
    page.locator("#findings .finding", has_text=SHOWN[0]).click()
    expect(page.locator("figcaption").last).to_contain_text(SHOWN[0])


if __name__ == "__main__":
    heatmap()
    web(Path("triton_repo"))
