"""Times and memory of `lrclr web`: ``python -m benchmarks.web BUNDLE [-o FILE]``.

In Debian's Chromium: from dropping a file to its answer, and from a typed prompt to its answer. By HTTP: the memory of
the process while a thousand images are uploaded. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import requests
from playwright.sync_api import sync_playwright

from lrclr.samples import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Page

_SIDES = ("left", "right")
_PLACES = ("apical", "basal", "hilar", "lateral")
_SIGNS = ("pneumothorax", "effusion", "opacity", "nodule", "atelectasis")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--times", type=int, default=200, help="files and prompts")
    parser.add_argument("--uploads", type=int, default=1000)
    given = parser.parse_args(arguments)
    command = [sys.executable, "-c", "import sys; from lrclr.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, "web", str(given.bundle), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            # It has said why.
            return 1
        result = {
            "machine": f"{platform.machine()}, {psutil.cpu_count()} processors",
            "model": requests.get(f"{url}/v1/model", timeout=60).json()["engine"],
            **_times(url, given.times),
            "rss_mib": _memory(url, psutil.Process(process.pid), given.uploads),
        }
    finally:
        process.terminate()
        process.wait()
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")
    return 0


def _times(url: str, times: int) -> dict[str, Any]:
    """Milliseconds in the browser: half and 95 % of the times are below these."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.locator("#samples-first button").first.wait_for()
        files = [sample.path(kind) for sample in SAMPLES for kind in ("png", "dicom")]
        drops = [_drop(page, files[number % len(files)]) for number in range(times + 1)][1:]
        prompts = [_prompt(page, number) for number in range(times + 1)][1:]
        browser.close()
    return {
        name: {f"p{share}": round(1000 * float(np.percentile(seconds, share)), 1) for share in (50, 95)}
        for name, seconds in (("drop_to_answer_ms", drops), ("prompt_to_answer_ms", prompts))
    }


def _drop(page: Page, file: Path) -> float:
    for close in page.locator("#images [aria-label^=Close]").all():
        close.click()
    page.locator("#drop").wait_for()
    began = time.perf_counter()
    page.set_input_files("#files", [file])
    page.locator(".region, #errors .message").first.wait_for(state="attached")
    return time.perf_counter() - began


def _prompt(page: Page, number: int) -> float:
    """Ask for something that was not asked before."""
    text = f"{_SIDES[number % 2]} {_PLACES[number % 4]} {_SIGNS[number % 5]} of {number} mm"
    page.fill("#prompt", text)
    began = time.perf_counter()
    page.keyboard.press("Enter")
    page.locator("#prompts .finding", has_text=text).locator(".value", has_text="%").wait_for()
    seconds = time.perf_counter() - began
    page.get_by_label(f"Remove the prompt {text}").click()
    return seconds


def _memory(url: str, process: psutil.Process, uploads: int) -> dict[str, float]:
    """MiB of the process, by the number of uploads. From 64 images on, each upload makes the server forget one."""
    files = [sample.path("dicom").read_bytes() for sample in SAMPLES]
    session = requests.Session()
    seen = {}
    for number in range(uploads + 1):
        if number % max(1, uploads // 10) == 0:
            seen[str(number)] = round(process.memory_info().rss / 2**20, 1)
        headers = {"Content-Type": "application/dicom"}
        session.post(f"{url}/v1/images", files[number % len(files)], headers=headers, timeout=60).raise_for_status()
    return seen


if __name__ == "__main__":
    sys.exit(main())
