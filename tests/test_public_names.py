"""Public names of the package `lrclr` can also be found without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_help_works_without_torch() -> None:
    text = run("import lrclr\nhelp(lrclr)")
    for name in ("class ZeroShotClassifier", "embed_images(", "class Bundle", "read_image("):
        assert name in text
    assert "class LrclrModel" not in text


@pytest.mark.parametrize("name", ["LrclrModel", "load_checkpoint"])
def test_the_error_for_a_name_that_needs_torch_names_the_extra(name: str) -> None:
    code = f"""
from lrclr.errors import MissingExtraError
try:
    from lrclr import {name}
except MissingExtraError as error:
    print(error)
"""
    text = run(code)
    assert f"lrclr.{name} needs the package 'torch'" in text
    assert "pip install '.[torch]'" in text


def test_every_name_is_listed_if_torch_is_installed() -> None:
    import lrclr

    assert set(dir(lrclr)) == set(lrclr.__all__)
    assert all(hasattr(lrclr, name) for name in lrclr.__all__)
