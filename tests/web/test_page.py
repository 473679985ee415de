"""The page in a real browser. All tests share one browser and one server, but each has its own page."""

from __future__ import annotations

import csv
import io
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from lrclr import Finding, FindingSet
from lrclr.samples import SAMPLES
from lrclr.web import BundleBackend, WebOptions, WebServer
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, Route

    from lrclr import ZeroShotClassifier

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
DICOM, PNG = SAMPLES[1].path("dicom"), SAMPLES[0].path()
TOKEN = "a-token-for-the-browser"
# The machine may be busy.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        open_files = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield open_files
        open_files.close()


@contextmanager
def page_of(browser: Browser, url: str, *, visit: bool = True, **options: Any) -> Iterator[Page]:
    """A page in its own browser context.

    On exit, checks that the console is empty and other hosts were not contacted.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True, **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    page.on(
        "request", lambda request: messages.append(request.url) if not request.url.startswith((url, "blob:")) else None
    )
    if visit:
        page.goto(url)
    try:
        yield page
    finally:
        context.close()
    # Messages that tests cause: statuses of refused requests, and requests without an answer.
    expected_messages = ("the server responded with a status of", "net::ERR_FAILED")
    assert [
        line for line in messages if not any(f"Failed to load resource: {text}" in line for text in expected_messages)
    ] == []


@pytest.fixture
def page(browser: Browser, running: WebServer) -> Iterator[Page]:
    with page_of(browser, running.url) as page:
        yield page


def open_files(page: Page, *files: Path) -> None:
    """Open files and wait for the answers."""
    page.set_input_files("#files", files)
    expect(page.locator("#images li")).to_have_count(len(files))
    expect(page.locator("#status")).to_have_text(f"{files[-1].name}: the answer is there")


def displayed_values(page: Page, where: str = "#findings") -> dict[str, list[str]]:
    """The displayed probabilities by name."""
    rows = page.locator(f"{where} .finding").all()
    return {row.locator(".name").inner_text(): row.locator(".value").all_inner_texts() for row in rows}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def expected_values(prediction: Any) -> dict[str, list[str]]:
    return {finding.name: [percent(finding.probability)] for finding in prediction.findings}


def test_findings_and_regions(page: Page, classifier: ZeroShotClassifier) -> None:
    open_files(page, DICOM)
    (prediction,) = classifier.predict([DICOM])
    assert displayed_values(page) == expected_values(prediction)
    expect(page.get_by_text("Research use only.")).to_be_visible()
    # Selecting, hovering over and focusing a finding shows its regions.
    name = prediction.findings[2].name
    page.locator("#findings .finding", has_text=name).click()
    caption = page.locator("figcaption")
    expect(caption).to_contain_text(f"{name}: {percent(prediction.findings[2].probability)}")
    patches: dict[int, float] = {}
    for region, attention in zip(prediction.regions, prediction.findings[2].region_attention, strict=True):
        patches[region.patch] = patches.get(region.patch, 0.0) + attention
    expect(page.locator(".region")).to_have_count(len(patches))
    labels = page.locator(".label").all_text_contents()
    assert sorted(labels) == sorted(f"{round(100 * each)} %" for each in patches.values())
    page.locator("#findings .finding", has_text=prediction.findings[0].name).hover()
    expect(caption).to_contain_text(prediction.findings[0].name)
    page.mouse.move(5, 5)
    expect(caption).to_contain_text(name)
    page.locator("#findings .finding", has_text=prediction.findings[0].name).focus()
    page.keyboard.press("Tab")
    expect(caption).to_contain_text(prediction.findings[1].name)
    page.keyboard.press("Enter")
    page.locator("#prompt").focus()
    expect(caption).to_contain_text(prediction.findings[1].name)
    # Each region is at the position in the answer.
    boxes = {
        tuple(round(float(each.get_attribute(side) or 0)) for side in ("x", "y", "width", "height"))
        for each in page.locator(".region").all()
    }
    corners = {(round(max(0, region.box[0])), round(max(0, region.box[1]))) for region in prediction.regions}
    assert {box[:2] for box in boxes} == corners


@pytest.mark.slow
def test_a_file_can_be_opened_before_the_model_is_known(browser: Browser, running: WebServer) -> None:
    with page_of(browser, running.url, visit=False) as page:
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/v1/model", hold)
        page.goto(running.url)
        page.set_input_files("#files", [DICOM])
        page.fill("#prompt", "gas")
        page.keyboard.press("Enter")
        while not held:
            page.wait_for_timeout(10)
        expect(page.locator("#images li")).to_have_count(0)
        held[0].continue_()
        expect(page.locator("#findings .value").first).to_contain_text("%")
        page.unroute("**/v1/model")


@pytest.mark.slow
def test_warnings_are_shown_before_the_result(page: Page, tmp_path: Path) -> None:
    noise = bundles.radiograph(tmp_path / "noise.png")
    open_files(page, noise)
    warnings = page.locator("#warnings p")
    expect(warnings.filter(has_text="noise.png: neighbouring pixels are unrelated")).to_be_visible()
    assert warnings.first.bounding_box()["y"] < page.locator("#findings").bounding_box()["y"]  # type: ignore[index]
    opened_before = warnings.count()
    page.get_by_label("Close noise.png").click()
    assert opened_before > 0
    expect(warnings).to_have_count(0)


def test_sliders(page: Page, classifier: ZeroShotClassifier) -> None:
    open_files(page, DICOM)
    page.locator("#shown").focus()
    page.keyboard.press("Home")
    expect(page.locator(".region")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    expect(page.locator(".region")).to_have_count(1)
    for key, alpha in (("Home", 0.0), ("End", 1.0), ("ArrowLeft", 0.95)):
        page.locator("#alpha").focus()
        page.keyboard.press(key)
        expect(page.locator("#alpha-value")).to_have_text(f"{alpha:.2f}")
        (prediction,) = classifier.predict([DICOM], alpha=alpha)
        for number, finding in enumerate(prediction.findings):
            value = page.locator("#findings .finding").nth(number).locator(".value")
            expect(value).to_have_text(percent(finding.probability))


def test_free_prompts(page: Page, classifier: ZeroShotClassifier) -> None:
    open_files(page, DICOM)
    texts = ["small left apical pneumothorax", "fluid in the right fissure"]
    for text in texts:
        page.fill("#prompt", text)
        page.keyboard.press("Enter")
        (prediction,) = classifier.predict([DICOM], findings=FindingSet((Finding(text),)))
        probability = percent(prediction.findings[0].probability)
        expect(page.locator("#prompts .finding", has_text=text).locator(".value")).to_have_text(probability)
        expect(page.locator("figcaption")).to_contain_text(f"{text}: {probability}")
    # Two prompts next to each other, for the same image.
    page.check("#compare")
    page.get_by_label("Finding of view B").select_option(label=texts[0])
    captions = page.locator("figcaption")
    expect(captions.nth(0)).to_contain_text(texts[1])
    expect(captions.nth(1)).to_contain_text(texts[0])
    # A prompt that the model cannot read is an error and is not added.
    page.fill("#prompt", "{brace}")
    page.keyboard.press("Enter")
    expect(page.locator("#errors")).to_contain_text("brace")
    expect(page.locator("#prompts li")).to_have_count(2)
    page.get_by_label(f"Remove the prompt {texts[0]}").click()
    expect(page.locator("#prompts li")).to_have_count(1)


@pytest.mark.slow
def test_spellings_of_a_prompt_are_sent_once(page: Page) -> None:
    """The server refuses two findings with the same name in a request, which a change of alpha would send."""
    open_files(page, DICOM)
    for text in ("right-sided gas", "Right sided  GAS", "fluid"):
        page.fill("#prompt", text)
        page.keyboard.press("Enter")
    expect(page.locator("#prompts .name")).to_have_text(["fluid", "right-sided gas"])
    page.locator("#alpha").focus()
    page.keyboard.press("Home")
    expect(page.locator("#prompts .value")).to_contain_text(["%", "%"])
    expect(page.locator("#errors .message")).to_have_count(0)


def test_texts_are_not_interpreted_as_html(page: Page, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    file = tmp_path / f"{hostile}.png"
    file.write_bytes(PNG.read_bytes())
    open_files(page, file)
    page.fill("#prompt", hostile)
    page.keyboard.press("Enter")
    expect(page.locator("figcaption strong")).to_contain_text(hostile)
    page.check("#compare")
    page.set_input_files("#files", {"name": f"{hostile}.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.locator("#errors")).to_contain_text(hostile)
    assert page.locator("img:not(.stage img)").count() == 0


@pytest.mark.slow
def test_the_keyboard_focus_stays_in_place(page: Page) -> None:
    open_files(page, DICOM, PNG)
    for place in (page.get_by_role("button", name=DICOM.name, exact=True), page.locator("#findings .finding").nth(3)):
        place.focus()
        page.keyboard.press("Enter")
        expect(place).to_have_attribute("aria-pressed", "true")
        expect(place).to_be_focused()
    page.get_by_label(f"Close {PNG.name}").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#open")).to_be_focused()


@pytest.mark.slow
def test_answers_for_another_alpha_are_not_shown(page: Page) -> None:
    """Neither old answers if the server does not respond, nor a late answer after a newer one."""
    open_files(page, DICOM)
    page.fill("#prompt", "gas")
    page.keyboard.press("Enter")
    expect(page.locator("#prompts .value")).to_contain_text("%")
    # The request for findings is answered, the one for prompts is not.
    page.route(
        "**/findings", lambda route: route.abort() if "gas" in (route.request.post_data or "") else route.continue_()
    )
    page.locator("#alpha").focus()
    page.keyboard.press("Home")
    expect(page.locator("#errors")).to_contain_text("does not answer")
    assert set(page.locator(".finding .value").all_inner_texts()) == {"–"}
    page.unroute("**/findings")
    page.keyboard.press("End")
    expect(page.locator("#prompts .value")).to_contain_text("%")
    expect(page.locator("#findings .value").first).to_contain_text("%")


@pytest.mark.slow
def test_a_file_can_be_opened_if_the_server_starts_after_the_page(page: Page) -> None:
    page.route("**/v1/model", lambda route: route.abort())
    page.reload()
    expect(page.locator("#errors")).to_contain_text("does not answer")
    page.unroute("**/v1/model")
    open_files(page, DICOM)
    expect(page.locator("#errors .message")).to_have_count(0)


@pytest.mark.slow
def test_two_images_are_compared(page: Page, classifier: ZeroShotClassifier) -> None:
    open_files(page, DICOM, PNG)
    page.check("#compare")
    (current,), (prior,) = (classifier.predict([path]) for path in (PNG, DICOM))
    wanted = {
        first.name: [percent(first.probability), percent(second.probability)]
        for first, second in zip(current.findings, prior.findings, strict=True)
    }
    assert displayed_values(page) == wanted
    # The alternative text of both pictures, and their names in the lists.
    assert [first.get_attribute("alt") for first in page.locator(".stage img").all()] == [
        f"Radiograph {PNG.name}",
        f"Radiograph {DICOM.name}",
    ]
    page.get_by_label(f"Close {PNG.name}").click()
    expect(page.locator("#images li")).to_have_count(1)


@pytest.mark.slow
def test_window_zoom_and_pan(page: Page) -> None:
    open_files(page, PNG)
    view, stage = page.locator(".viewport"), page.locator(".stage")
    ramp = page.locator("filter feFuncR")

    def state() -> tuple[str, float, float]:
        # The policy of the page forbids running code from texts, so attributes are read.
        style = stage.get_attribute("style") or ""
        return style, float(ramp.get_attribute("slope") or 0), float(ramp.get_attribute("intercept") or 0)

    start = state()
    box = view.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 250, steps=4)
    page.mouse.up()
    windowed = state()
    assert windowed[0] == start[0]
    assert windowed[1] > start[1]
    page.mouse.wheel(0, -300)
    assert "scale(2" in state()[0]
    page.keyboard.down("Control")
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 250)
    page.mouse.up()
    page.keyboard.up("Control")
    assert state()[1:] == windowed[1:]
    view.focus()
    moved = state()
    for key in ("ArrowLeft", "+", "Shift+ArrowRight", "i"):
        page.keyboard.press(key)
        assert state() != moved
        moved = state()
    page.keyboard.press("0")
    assert state() == start
    # The inverted picture is the negative of the other picture.
    page.locator("#shown").focus()
    page.keyboard.press("Home")
    pictures = []
    for _ in range(2):
        pictures.append(np.asarray(Image.open(io.BytesIO(view.screenshot())).convert("L")).astype(int))
        page.get_by_label("Invert grey levels").click()
    middle = tuple(slice(size // 2 - 40, size // 2 + 40) for size in pictures[0].shape)
    assert np.abs(pictures[0][middle] + pictures[1][middle] - 255).mean() < 3


def test_downloads(page: Page, classifier: ZeroShotClassifier) -> None:
    open_files(page, PNG)
    expect(page.locator("#report")).to_be_disabled()
    page.get_by_label(f"Close {PNG.name}").click()
    open_files(page, DICOM)
    page.fill("#prompt", 'gas, "free"')
    page.keyboard.press("Enter")
    expect(page.locator("#prompts .value")).to_contain_text("%")

    def content(button: str) -> tuple[str, bytes]:
        with page.expect_download() as waiting:
            page.click(button)
        path = waiting.value.path()
        return waiting.value.suggested_filename, path.read_bytes()

    name, table = content("#csv")
    assert name == "effusion.csv"
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    (prediction,) = classifier.predict([DICOM])
    assert [float(row["probability"]) for row in rows[:-1]] == pytest.approx(
        [finding.probability for finding in prediction.findings], abs=1e-6
    )
    assert (rows[-1]["kind"], rows[-1]["finding"]) == ("prompt", 'gas, "free"')
    name, picture = content("#heatmap")
    assert (name, Image.open(io.BytesIO(picture)).format) == ("effusion-regions.png", "PNG")
    name, report = content("#report")
    assert (name, pydicom.dcmread(io.BytesIO(report)).Modality) == ("effusion-sr.dcm", "SR")


def test_errors_and_samples(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(PNG.read_bytes()[:2000])
    page.set_input_files("#files", [broken])
    expect(page.locator("#errors")).to_contain_text("broken.png: ")
    expect(page.locator("#drop")).to_be_visible()
    page.get_by_label("Dismiss this error").click()
    expect(page.locator("#errors .message")).to_have_count(0)
    page.locator("#samples-first button", has_text="cardiomegaly").click()
    expect(page.locator("#images li")).to_contain_text("cardiomegaly (sample)")
    expect(page.locator("#findings .value").first).to_contain_text("%")
    # A file that is dropped on the page is opened.
    handle = page.locator("#files").evaluate_handle("node => new DataTransfer()")
    handle.evaluate(
        "(transfer) => transfer.items.add(new File(['no image'], 'dropped.png'))",
    )
    page.locator("body").dispatch_event("drop", {"dataTransfer": handle})
    expect(page.locator("#errors")).to_contain_text("dropped.png: lrclr cannot read the file")


@pytest.mark.slow
def test_an_image_that_the_server_removed_is_sent_again(
    browser: Browser, backend: BundleBackend, classifier: ZeroShotClassifier
) -> None:
    options = WebOptions(port=0, kept_images=1)
    with WebServer(backend, options) as server, page_of(browser, server.url) as page:
        open_files(page, DICOM, PNG)
        page.locator("#alpha").focus()
        page.keyboard.press("Home")
        (prediction,) = classifier.predict([DICOM], alpha=0.0)
        page.get_by_role("button", name=DICOM.name, exact=True).click()
        page.fill("#prompt", "gas")
        page.keyboard.press("Enter")
        expect(page.locator("#prompts .value")).to_contain_text("%")
        expect(page.locator("#errors .message")).to_have_count(0)
        # The alpha of the slider still applies.
        for number, finding in enumerate(prediction.findings):
            value = page.locator("#findings .finding").nth(number).locator(".value")
            expect(value).to_have_text(percent(finding.probability))


@pytest.mark.slow
def test_closing_the_page_removes_its_images(browser: Browser, backend: BundleBackend) -> None:
    import requests

    with WebServer(backend, WebOptions(port=0)) as server:

        def kept() -> str:
            lines = requests.get(f"{server.url}/metrics", timeout=60).text.splitlines()
            return str(next(line for line in lines if line.startswith("lrclr_web_kept_images ")).split()[1])

        with page_of(browser, server.url) as first, page_of(browser, server.url) as second:
            # Two users at the same time, with different files and prompts.
            open_files(first, DICOM, PNG)
            open_files(second, PNG)
            assert kept() == "3"
            for page, text in ((first, "gas"), (second, "air")):
                page.fill("#prompt", text)
                page.keyboard.press("Enter")
            for page, text in ((first, "gas"), (second, "air")):
                expect(page.locator("#prompts .name")).to_have_text(text)
                expect(page.locator("#prompts .value")).to_contain_text("%")
            first.close(run_before_unload=True)
            for _ in range(600):
                if kept() == "1":
                    break
                second.wait_for_timeout(50)
            assert kept() == "1"


def test_the_page_asks_for_a_token(browser: Browser, backend: BundleBackend) -> None:
    with WebServer(backend, WebOptions(port=0, token=TOKEN)) as server, page_of(browser, server.url) as page:
        for wrong in ("wrong", "wröng"):
            page.fill("#token", wrong)
            page.keyboard.press("Enter")
            expect(page.locator("#errors")).to_contain_text("The token is wrong")
            expect(page.locator("#token-section")).to_be_visible()
            page.get_by_label("Dismiss this error").click()
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#token-section")).to_be_hidden()
        open_files(page, DICOM)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_accessibility(browser: Browser, running: WebServer, scheme: str, width: int) -> None:
    """axe-core finds no problem, and no element is wider than the screen."""
    with page_of(browser, running.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 800})
        for state in ("empty", "two images", "two views"):
            if state == "two images":
                open_files(page, DICOM, PNG)
            elif state == "two views":
                page.check("#compare")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert page.locator("html").evaluate("node => node.scrollWidth") <= width
        page.goto(f"{running.url}/api")
        expect(page.get_by_role("heading", name="POST /v1/findings", exact=True)).to_be_visible()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.locator("html").evaluate("node => node.scrollWidth") <= width
