"""The prose of the repository has no banned turn of phrase and no misspelt word."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.pages import ROOT
from tools.prose import phrases, search, text_files


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files")
def test_every_file_is_clean() -> None:
    assert not [str(found) for found in search(text_files())]


@pytest.mark.parametrize(
    "text",
    [
        "This is no file.",
        "These are no\nfiles.",
        "# The path is\n# no folder.",
        "Nobody reads it",
        "whoever calls",
        "regions that speak for them",
        "it is told so",
        "TensorRT could not be had",
        "a file that is not ours",
    ],
)
def test_a_phrase_is_found(text: str) -> None:
    assert list(phrases(text))


@pytest.mark.parametrize(
    "text",
    [
        "It is no longer there",
        "There is no pleural effusion.",
        "There is no focal consolidation.",
        "hours of yours",
        "This is not a file.",
        "It has no file",
        "there is no such file",
        "ours, theirs = one, other",
    ],
)
def test_plain_english_is_not_found(text: str) -> None:
    assert not list(phrases(text))


def test_words_are_spelt_correctly() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)
