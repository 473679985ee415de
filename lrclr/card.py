"""The file ``card.toml``: what the authors of a checkpoint state about it, for the model card of its bundles.

Every field is optional. The fields are those of the model cards of the Hugging Face Hub
(https://huggingface.co/docs/hub/model-card-annotated) and of CHAI's Applied Model Card, version 0.2
(https://github.com/coalition-for-health-ai/mc-schema)::

    name = "chest-tower"
    license = "apache-2.0"
    intended_use = "Retrieval of similar frontal radiographs in research."
    limits = ["Lateral views were never seen.", "Devices are often taken for findings."]

    [[metrics]]
    name = "AUROC"
    finding = "Edema"
    value = 0.874
    interval = [0.861, 0.886]
    data = "test split, 2,000 images"

A text may have several paragraphs, with an empty line between them; a list of texts becomes a list in the card. Links
and emphasis in Markdown are kept. The card must not contain anything about a single patient.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lrclr._markdown import clean
from lrclr._toml import toml_content, toml_text
from lrclr.errors import UsageError

__all__ = ["CARD", "FIELDS", "MARK", "README", "SECTIONS", "Metric", "ModelCard", "is_licence"]

CARD: Final = "card.toml"
# The rendered model card of a bundle and of a repository on the hub.
README: Final = "README.md"
# The beginning of a comment in every model card that lrclr renders. One without it was written by someone else.
MARK: Final = "<!-- written by lrclr"
# Fields by section of the rendered card: the key in the file, and its title. The names in the two templates are in
# docs/howto/model-card.md.
SECTIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "Model": {
            "name": "Name",
            "summary": "Summary",
            "developers": "Developed by",
            "contact": "Contact",
            "version": "Version",
            "date": "Date",
            "license": "License",
            "base_model": "Base model",
            "paper": "Paper",
            "funding": "Funding",
        },
        "Uses": {
            "intended_use": "Intended use",
            "users": "Intended users",
            "population": "Patients",
            "out_of_scope": "Out of scope",
        },
        "Training": {
            "training_data": "Training data",
            "training_procedure": "Training procedure",
            "bias_mitigation": "Measures against bias",
        },
        "Evaluation": {
            "evaluation_data": "Evaluation data",
            "evaluation_method": "Method",
            "subgroups": "Results by subgroup",
        },
        "Risks and limits": {
            "limits": "Known limits",
            "ethics": "Ethical notes and known biases",
            "risk_level": "Clinical risk level",
            "recommendations": "Recommendations",
        },
        "Status": {
            "approval": "Regulatory approval",
            "maintenance": "Maintenance",
        },
    }
)
FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {key: title for fields in SECTIONS.values() for key, title in fields.items()}
)
METRICS: Final = "metrics"
_METRIC_KEYS: Final = ("name", "finding", "value", "interval", "data")
_MOST_BYTES: Final = 1 << 20
_MOST_CHARACTERS: Final = 20_000
_MOST_METRICS: Final = 2000
_LICENCE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")

_MEASURED_OTHERWISE: Final = "metrics that were measured with other settings are left out"

# The paragraphs of a text, or the entries of a list.
Text = str | tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """One measured value.

    Attributes:
        name: name of the metric, such as ``"AUROC"``.
        value: the value.
        finding: what it was measured for; "" for all findings together.
        interval: its lower and upper end; None if it is not stated.
        data: what it was measured on; "" if `ModelCard.texts` has it under ``"evaluation_data"``.
    """

    name: str
    value: float
    finding: str = ""
    interval: tuple[float, float] | None = None
    data: str = ""


@dataclass(frozen=True)
class ModelCard:
    """What the authors of a checkpoint state about it.

    Attributes:
        texts: texts by the keys of `FIELDS`. Paragraphs are separated by an empty line. A list is a tuple of texts.
        metrics: measured values.
        remarks: what was left out, as a clause each: values of the file that cannot be used, and metrics that were
            measured with other settings. It counts as not stated.
    """

    texts: Mapping[str, Text] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    remarks: tuple[str, ...] = field(default=(), compare=False)

    def __bool__(self) -> bool:
        """Whether anything is stated."""
        return bool(self.texts or self.metrics)

    def without_metrics(self, findings: Collection[str] | None = None) -> ModelCard:
        """Return the card without the values that other settings would change.

        Args:
            findings: the findings whose values stay valid. Values for all findings together are left out. None if no
                value stays valid.
        """
        kept = () if findings is None else tuple(one for one in self.metrics if one.finding in findings)
        left_out = () if len(kept) == len(self.metrics) else (_MEASURED_OTHERWISE,)
        return replace(self, metrics=kept, remarks=(*self.remarks, *left_out))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ModelCard:
        """Read a card file.

        A key that is unknown and a value of another type are left out, and `remarks` names them.

        Raises:
            UsageError: the file cannot be read, is larger than 1 MiB, or is not TOML in UTF-8.
        """
        try:
            content = toml_content(toml_text(path, kind="a model card", most_bytes=_MOST_BYTES, error=UsageError))
        except ValueError as error:
            raise UsageError(f"{path} is not valid TOML", why=str(error)) from None
        texts: dict[str, Text] = {}
        remarks: list[str] = []
        metrics: list[Metric] = []
        for key, value in content.items():
            if key == METRICS:
                metrics = _metrics(value, remarks)
            elif key not in FIELDS:
                remarks.append(_unknown(key, (*FIELDS, METRICS)))
            else:
                try:
                    texts[key] = _text(key, value)
                except ValueError as error:
                    remarks.append(f"{key!r} {error}")
        return cls({key: texts[key] for key in FIELDS if key in texts}, tuple(metrics), tuple(remarks))

    def to_toml(self) -> str:
        """The card as the text of a file, which `load` reads back to an equal card."""
        lines = []
        for key, text in self.texts.items():
            if isinstance(text, str):
                lines.append(f"{key} = {_quoted(text)}")
            else:
                lines += [f"{key} = [", *(f"    {_quoted(entry)}," for entry in text), "]"]
        for metric in self.metrics:
            lines += ["", f"[[{METRICS}]]", f"name = {_quoted(metric.name)}"]
            lines += [f"finding = {_quoted(metric.finding)}"] if metric.finding else []
            lines.append(f"value = {metric.value!r}")
            lines += [] if metric.interval is None else [f"interval = [{', '.join(map(repr, metric.interval))}]"]
            lines += [f"data = {_quoted(metric.data)}"] if metric.data else []
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Write `CARD` into a folder, unless nothing is stated."""
        if self:
            (folder / CARD).write_text(self.to_toml(), encoding="utf-8")

    @classmethod
    def beside(cls, folder: Path) -> ModelCard:
        """The card in a folder; an empty card if the folder has none.

        Raises:
            UsageError: as `load`.
        """
        return cls.load(folder / CARD) if (folder / CARD).is_file() else cls()


def is_licence(text: str) -> bool:
    """Whether a text has the form of the hub's identifiers of licences, such as ``"mit"``."""
    return _LICENCE.fullmatch(text) is not None


def _text(key: str, value: object) -> Text:
    """Return the value of a field. Raises ValueError with a clause that says why it cannot be used."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = value.isoformat()
    if isinstance(value, list):
        if not all(isinstance(entry, str) for entry in value):
            raise ValueError("must be a text or a list of texts")
        entries = tuple(entry for entry in (_paragraph(text) for text in value) if entry)
        made: Text = entries
    elif isinstance(value, str):
        made = "\n\n".join(filter(None, (_paragraph(text) for text in re.split(r"\r?\n[ \t]*\r?\n", value))))
    else:
        raise ValueError("must be a text or a list of texts")
    if not made:
        raise ValueError("is empty")
    if sum(map(len, made)) > _MOST_CHARACTERS:
        raise ValueError(f"has more than {_MOST_CHARACTERS} characters")
    if key == "license" and not (isinstance(made, str) and is_licence(made)):
        raise ValueError("is not an identifier of a licence, such as apache-2.0")
    return made


def _paragraph(text: str) -> str:
    return " ".join(clean(text).split())


def _metrics(tables: object, remarks: list[str]) -> list[Metric]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        remarks.append(f"{METRICS!r} must be a list of tables: write [[{METRICS}]]")
        return []
    if len(tables) > _MOST_METRICS:
        remarks.append(f"{METRICS!r} has {len(tables)} entries, and at most {_MOST_METRICS} are read")
        return []
    metrics = []
    for number, table in enumerate(tables, 1):
        subject = f"{METRICS} entry {number}"
        remarks += [f"{subject}: {_unknown(key, _METRIC_KEYS)}" for key in table if key not in _METRIC_KEYS]
        name, value = table.get("name"), table.get("value")
        if not _is_text(name) or not _is_number(value):
            remarks.append(f"{subject} is left out: it needs a text 'name' and a number 'value'")
            continue
        bad = [key for key in ("finding", "data") if key in table and not _is_text(table[key])]
        interval = table.get("interval")
        if interval is not None and not _is_interval(interval, value):
            interval = None
            bad.append("interval")
        remarks += [f"{subject}: {key!r} must be {_EXPECTED[key]}" for key in bad]
        if "finding" in bad:
            # Without it, the value would be that of all findings together.
            continue
        finding, data = (
            _paragraph(table[key]) if key in table and key not in bad else "" for key in ("finding", "data")
        )
        ends = None if interval is None else (float(interval[0]), float(interval[1]))
        metrics.append(Metric(_paragraph(name), float(value), finding, ends, data))
    return metrics


_EXPECTED: Final = {
    "finding": "a text; the entry is left out",
    "data": "a text",
    "interval": "two numbers with the value between them",
}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(_paragraph(value)) and len(value) <= _MOST_CHARACTERS


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_interval(ends: object, value: float) -> bool:
    return isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] <= value <= ends[1]


def _unknown(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
    return f"{clean(key[:40])!r} is not a known key; {hint}"


def _quoted(text: str) -> str:
    # JSON's strings are TOML's too: a text has no control characters but line breaks.
    return json.dumps(text, ensure_ascii=False)
