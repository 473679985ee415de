"""`card.toml`: what a checkpoint states about itself. An invalid value is ignored, and the rest of the file is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrclr.card import FIELDS, Metric, ModelCard
from lrclr.checkpoints import default_checkpoint
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
name = "a"
date = 2026-11-27
limits = ["one", "two"]
ethics = '''
first
line

second'''
[[metrics]]
name = "AUROC"
finding = "Edema"
value = 1
interval = [0.9, 1.0]
data = "test"
"""


def read(tmp_path: Path, text: str) -> ModelCard:
    file = tmp_path / "card.toml"
    file.write_text(text, encoding="utf-8")
    return ModelCard.load(file)


def test_every_form_of_a_value_is_read(tmp_path: Path) -> None:
    card = read(tmp_path, GOOD)
    assert card.remarks == ()
    assert card.texts == {
        "name": "a",
        "date": "2026-11-27",
        "limits": ("one", "two"),
        "ethics": "first line\n\nsecond",
    }
    assert card.metrics == (Metric("AUROC", 1.0, "Edema", (0.9, 1.0), "test"),)
    assert read(tmp_path, card.to_toml()) == card


def test_the_card_of_the_default_checkpoint_is_complete(tmp_path: Path) -> None:
    card = ModelCard.beside(default_checkpoint())
    assert card.remarks == ()
    assert {"intended_use", "out_of_scope", "training_data", "limits", "ethics", "approval"} <= card.texts.keys()
    assert all(metric.interval for metric in card.metrics)
    assert read(tmp_path, card.to_toml()) == card


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ('intended_uses = "x"', "'intended_uses' is not a known key; did you mean 'intended_use'?"),
        ('zzz = "x"', "'zzz' is not a known key; the keys are name, summary"),
        ("version = 3", "'version' must be a text or a list of texts"),
        ("limits = [1, 2]", "'limits' must be a text or a list of texts"),
        ('summary = " "', "'summary' is empty"),
        (f'summary = "{"x" * 30_000}"', "has more than 20000 characters"),
        ('license = "My own"', "'license' is not an identifier of a licence, such as apache-2.0"),
        ("metrics = 3", "'metrics' must be a list of tables"),
        ("[[metrics]]\nvalue = 0.5", "metrics entry 1 is left out: it needs a text 'name' and a number 'value'"),
        ('[[metrics]]\nname = "AUROC"\nvalue = nan', "metrics entry 1 is left out"),
        ('[[metrics]]\nname = "AUROC"\nvalue = true', "metrics entry 1 is left out"),
        ('[[metrics]]\nname = "AUROC"\nvalue = 0.5\nfindings = "E"', "did you mean 'finding'?"),
        ('[[metrics]]\nname = "AUROC"\nvalue = 0.5\ninterval = [0.6, 0.7]', "two numbers with the value between them"),
        ('[[metrics]]\nname = "AUROC"\nvalue = 0.5\ninterval = 0.1', "two numbers with the value between them"),
        ('[[metrics]]\nname = "AUROC"\nvalue = 0.5\nfinding = 3', "'finding' must be a text; the entry is left out"),
    ],
)
def test_an_invalid_value_is_named_and_the_rest_is_kept(text: str, remark: str, tmp_path: Path) -> None:
    card = read(tmp_path, f'funding = "none"\n{text}\n')
    assert card.texts == {"funding": "none"}
    assert len(card.remarks) == 1
    assert remark in card.remarks[0]
    # A wrong interval does not remove the value.
    assert [metric.interval for metric in card.metrics] == [None] * ("interval" in text or "findings" in text)


# Strings in TOML have no surrogates and no U+007F, which JSON writes.
WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
LEAF = st.booleans() | st.integers() | st.floats() | WORD
# Few values: a line with more than 8 dots is refused.
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3), max_leaves=5
)


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {as_toml(each)}" for key, each in value.items())
            + "}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


@given(st.dictionaries(st.sampled_from([*FIELDS, "metrics"]) | WORD, VALUE, max_size=5))
def test_no_value_makes_a_file_invalid(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    folder = tmp_path_factory.getbasetemp()
    card = read(folder, "\n".join(f"{as_toml(key)} = {as_toml(value)}" for key, value in values.items()))
    assert card.texts.keys() <= FIELDS.keys() & values.keys()
    assert read(folder, card.to_toml()) == card


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"name = ", "is not valid TOML: "),
        (b"a.b.c.d.e.f.g.h.i.j.k = 1", "a line has more than 8 dots outside texts"),
        (b'name = "\xff"', "is not UTF-8 at line 1"),
        (b"#" * (1 << 20) + b"#", "is not a model card: it is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_not_a_card_is_refused(content: bytes, error: str, tmp_path: Path) -> None:
    file = tmp_path / "card.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=error):
        ModelCard.load(file)
    with pytest.raises(UsageError, match="cannot be read"):
        ModelCard.load(tmp_path / "none")
