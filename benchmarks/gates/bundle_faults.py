"""Faults in the files of a bundle beside its graphs: manifest, findings and tokenizer."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrclr.bundle import FINDINGS, MANIFEST, TOKENIZER, Bundle, Manifest, file_table
from lrclr.inference import ScoreCalibration
from lrclr.text import FindingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Change = Callable[[Path], None]


def sign(folder: Path, **changes: Any) -> None:
    """Write the manifest with the present hashes of all files, and with these changes."""
    manifest = Manifest.from_json((folder / MANIFEST).read_text())
    renewed = replace(manifest, **{"files": file_table(folder), **changes})
    (folder / MANIFEST).write_text(renewed.to_json())


def alpha(change: Callable[[float], float]) -> Change:
    """Change the weight of the local score."""

    def changed(folder: Path) -> None:
        scoring = Manifest.from_json((folder / MANIFEST).read_text()).scoring
        sign(folder, scoring={**scoring, "alpha": change(scoring["alpha"])})

    return changed


def larger_scales(folder: Path) -> None:
    """Multiply the scale of the scores by 1.5, of findings with their own scale as well."""
    scoring = Manifest.from_json((folder / MANIFEST).read_text()).scoring
    whole = ScoreCalibration.from_dict(scoring)
    own = {name: (1.5 * scale, bias) for name, (scale, bias) in whole.findings.items()}
    sign(folder, scoring={**scoring, **replace(whole, scale=1.5 * whole.scale, findings=own).to_dict()})


def channel_values(field: str, change: Callable[[float], float]) -> Change:
    """Change the mean or the standard deviation of each channel."""

    def changed(folder: Path) -> None:
        preprocess = Manifest.from_json((folder / MANIFEST).read_text()).preprocess
        sign(folder, preprocess={**preprocess, field: [change(value) for value in preprocess[field]]})

    return changed


def longer_prompt(folder: Path) -> None:
    """Add a word to a prompt."""
    first, *rest = Bundle(folder).findings.findings
    changed = replace(first, positive=(f"a {first.positive[0]}", *first.positive[1:]))
    (folder / FINDINGS).write_text(FindingSet((changed, *rest)).to_toml(), encoding="utf-8")


def exchanged_names(folder: Path) -> None:
    """Exchange the names of two findings, and leave their prompts."""
    one, other, *rest = Bundle(folder).findings.findings
    renamed = (replace(one, name=other.name), replace(other, name=one.name), *rest)
    (folder / FINDINGS).write_text(FindingSet(renamed).to_toml(), encoding="utf-8")


def exchanged_words(folder: Path) -> None:
    """Exchange the numbers of two words of the findings' prompts."""
    bundle = Bundle(folder)
    words = bundle.tokenizer.encode(bundle.findings.prompts, truncate=True).input_ids[:, 1].tolist()
    first, second = list(dict.fromkeys(words))[:2]
    with _tokenizer(folder) as content:
        vocabulary = content["model"]["vocab"]
        names = {number: word for word, number in vocabulary.items()}
        vocabulary[names[first]], vocabulary[names[second]] = second, first


def without_normalizer(folder: Path) -> None:
    """Keep capital letters as they are."""
    with _tokenizer(folder) as content:
        content["normalizer"] = None


@contextmanager
def _tokenizer(folder: Path) -> Iterator[dict[str, Any]]:
    """The tokenizer's content, which is written back after the block."""
    file = folder / TOKENIZER
    content = json.loads(file.read_bytes())
    yield content
    file.write_text(json.dumps(content))
