"""The findings to look for, and the prompts that stand for them.

A findings file is TOML::

    positive = ["{}"]        # for every finding that brings none of its own; "{}" is the finding's name
    negative = ["no {}"]

    [[finding]]
    name = "Edema"

    [[finding]]
    name = "Pleural Effusion"
    positive = ["{}", "fluid in the pleural space"]

A finding with ``negative = []`` is judged by its positive prompts alone, which only some networks can: those that were
trained with a sigmoid, such as SigLIP. The defaults, and the file that is shipped, are those of CheXzero's zero-shot
evaluation.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr._toml import toml_content, toml_text
from lrclr.errors import FindingsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    from lrclr.text._tokenizer import ClipTokenizer

POSITIVE: Final = ("{}",)
NEGATIVE: Final = ("no {}",)
MAX_FILE_BYTES: Final = 2**20
MAX_NAME_CHARACTERS: Final = 200
MAX_PROMPT_CHARACTERS: Final = 2000
# Of all findings together, repetitions included.
MAX_PROMPTS: Final = 2**14
FINDING_KEYS: Final = ("name", "positive", "negative")
FILE_KEYS: Final = ("finding", "positive", "negative")
# Cc, Cs, Zl and Zp of Unicode's general categories.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
SPLIT: Final = "Ask for fewer findings at once."
_NOTE: Final = """\
# The findings of this model and their prompts. The probability of a finding depends on the wording of its prompts:
# copy this file and change the copy, instead of writing names alone. See docs/howto/prompts.md in lrclr's source.

"""
EXAMPLE: Final = 'Write [[finding]] and, on the next line, name = "Edema".'


@lru_cache(maxsize=4096)
def finding_key(name: str) -> str:
    """By what names of findings are compared: case, underscores, hyphens and spaces between words do not count.

    ``pleural_effusion`` in a table of labels is the finding ``Pleural Effusion``.
    """
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFC", name).casefold().strip(" _-")))


@dataclass(frozen=True)
class Finding:
    """A label and its prompts; checked when made.

    Attributes:
        name: the label, as it stands in results and in a table of labels.
        positive: prompts that say it is there; ``{}`` is replaced by the name when the finding is made.
        negative: prompts that say it is not, likewise; none for a finding that is judged by the positive ones alone.

    Raises:
        FindingsError: a name or a prompt that cannot be used.
    """

    name: str
    positive: tuple[str, ...] = POSITIVE
    negative: tuple[str, ...] = NEGATIVE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise FindingsError(f"a finding's name must be a text, not {_kind(self.name)}", fix=EXAMPLE)
        if not self.name.strip():
            raise FindingsError("a finding's name is empty", fix=EXAMPLE)
        label = f"finding {self.name[:40]!r}"
        if len(self.name) > MAX_NAME_CHARACTERS:
            raise FindingsError(f"{label} has a name of more than {MAX_NAME_CHARACTERS} characters")
        if self.name != self.name.strip():
            raise FindingsError(f"{label} has spaces around its name", fix="Remove them.")
        if _has_control(self.name):
            raise FindingsError(f"{label} has a line break or another control character in its name")
        if "{" in self.name or "}" in self.name:
            raise FindingsError(f"{label} has a brace in its name", why="braces mark where a name goes in a prompt")
        for sign in ("positive", "negative"):
            object.__setattr__(self, sign, _filled(label, sign, getattr(self, sign), self.name))
        negative = {prompt: number for number, prompt in enumerate(self.negative, 1)}
        for number, prompt in enumerate(self.positive, 1):
            if prompt in negative:
                raise FindingsError(
                    f"{label} has its positive prompt {number} as negative prompt {negative[prompt]} too"
                )


@dataclass(frozen=True)
class FindingSet:
    """Findings in the order in which results are given; checked when made.

    Attributes:
        findings: at least one, with names that differ in their `finding_key`.

    Raises:
        FindingsError: no findings, or two of one name.
    """

    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", tuple(self.findings))
        if not all(isinstance(each, Finding) for each in self.findings):
            raise FindingsError("a finding is not a Finding", fix="Write Finding(name, positive, negative).")
        if not self.findings:
            raise FindingsError("there are no findings", fix=EXAMPLE)
        seen: dict[str, str] = {}
        for name in self.names:
            key = finding_key(name)
            if key in seen:
                raise FindingsError(f"two findings are called {seen[key]!r} and {name!r}", fix="Rename one of them.")
            seen[key] = name

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The findings' names."""
        return tuple(finding.name for finding in self.findings)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt once: finding by finding, positive before negative, where it first occurs."""
        return tuple(
            dict.fromkeys(text for finding in self.findings for text in (*finding.positive, *finding.negative))
        )

    @cached_property
    def positive_index(self) -> tuple[NDArray[np.int64], ...]:
        """For each finding, where its positive prompts are in :attr:`prompts`: read-only int64 ``[n]``."""
        return self._index(tuple(finding.positive for finding in self.findings))

    @cached_property
    def negative_index(self) -> tuple[NDArray[np.int64], ...]:
        """For each finding, where its negative prompts are in :attr:`prompts`: read-only int64 ``[n]``, n may be 0."""
        return self._index(tuple(finding.negative for finding in self.findings))

    def _index(self, groups: tuple[tuple[str, ...], ...]) -> tuple[NDArray[np.int64], ...]:
        place = {text: number for number, text in enumerate(self.prompts)}
        arrays = tuple(np.array([place[text] for text in group], np.int64) for group in groups)
        for array in arrays:
            array.setflags(write=False)
        return arrays

    @classmethod
    def default(cls) -> FindingSet:
        """CheXzero's 14 findings."""
        text = resources.files("lrclr").joinpath("data", "findings.toml").read_text(encoding="utf-8")
        return cls.loads(text)

    @classmethod
    def from_names(
        cls, names: Sequence[str], positive: tuple[str, ...] = POSITIVE, negative: tuple[str, ...] = NEGATIVE
    ) -> FindingSet:
        """Findings that share their templates.

        Raises:
            FindingsError: as :class:`Finding` and :class:`FindingSet` do.
        """
        if isinstance(names, str):
            raise FindingsError("the names of findings must be a list, not one text", fix="Wrap it in a list.")
        return cls(tuple(Finding(name, positive, negative) for name in names))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FindingSet:
        """The findings in a file; errors begin with its path.

        Raises:
            FindingsError: the file cannot be read, is larger than 1 MiB, or is not UTF-8; or as :meth:`loads`.
        """
        text = toml_text(path, kind="a findings file", most_bytes=MAX_FILE_BYTES, error=FindingsError)
        try:
            return cls.loads(text)
        except FindingsError as error:
            raise FindingsError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None

    @classmethod
    def loads(cls, text: str) -> FindingSet:
        """The findings in the text of a findings file.

        Raises:
            FindingsError: longer than 1 MiB, not TOML (with the line), or not what a findings file holds (with the
                finding's number).
        """
        if len(text) > MAX_FILE_BYTES:
            raise FindingsError(
                f"the findings have {len(text)} characters", why=f"at most {MAX_FILE_BYTES} are read", fix=SPLIT
            )
        try:
            document = toml_content(text)
        except ValueError as error:
            raise FindingsError("findings are not valid TOML", why=str(error)) from None
        _check_keys(document, FILE_KEYS, "findings have")
        tables = document.get("finding", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise FindingsError(f"'finding' must be a list of tables, not {_kind(tables)}", fix=EXAMPLE)
        defaults = {"positive": document.get("positive", POSITIVE), "negative": document.get("negative", NEGATIVE)}
        for sign, templates in defaults.items():
            # Checked here as well, so that the message does not blame the first finding.
            _filled("the default", sign, templates, "{}")
        _check_number(defaults, tables)
        findings = []
        for number, table in enumerate(tables, start=1):
            _check_keys(table, FINDING_KEYS, f"finding {number} has")
            if "name" not in table:
                raise FindingsError(f"finding {number} has no name", fix=EXAMPLE)
            try:
                findings.append(Finding(**{**defaults, **table}))
            except FindingsError as error:
                raise FindingsError(f"number {number}: {error.what}", why=error.why, fix=error.fix) from None
        return cls(tuple(findings))

    def only(self, names: Sequence[str]) -> FindingSet:
        """The findings of these names, in this order, with their prompts.

        Raises:
            FindingsError: one of them is not in this set.
        """
        known = {finding.name: finding for finding in self.findings}
        for name in names:
            if name not in known:
                raise unknown_finding(name, known)
        return FindingSet(tuple(known[name] for name in names))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a findings file, with a note on prompts at its head."""
        Path(path).write_text(_NOTE + self.to_toml(), encoding="utf-8")

    def bare(self, own: FindingSet) -> tuple[str, ...]:
        """Return the names of findings that have only the default prompts, where a model's own findings have others.

        Such a finding is asked for by its name alone, in words that the model was perhaps never tuned on.

        Args:
            own: the findings of the model. If one of them has the default prompts too, no name is returned: the model
                is made for such prompts.
        """
        if any(finding == Finding(finding.name) for finding in own.findings):
            return ()
        return tuple(finding.name for finding in self.findings if finding == Finding(finding.name))

    def to_toml(self) -> str:
        """The findings as the text of a findings file, which :meth:`loads` reads back to an equal set."""
        lines = [f"positive = {_quoted(POSITIVE)}", f"negative = {_quoted(NEGATIVE)}"]
        for finding in self.findings:
            plain = Finding(finding.name)
            lines += ["", "[[finding]]", f"name = {_quoted(finding.name)}"]
            if finding.positive != plain.positive:
                lines.append(f"positive = {_quoted(finding.positive)}")
            if finding.negative != plain.negative:
                lines.append(f"negative = {_quoted(finding.negative)}")
        return "\n".join(lines) + "\n"


def check_prompts(findings: FindingSet, tokenizer: ClipTokenizer) -> None:
    """Check that a text encoder can read every prompt.

    Raises:
        FindingsError: it cannot. The text names the finding and the prompt's number; the prompt itself is not shown,
            since it may be about a patient.
    """
    for finding in findings.findings:
        for sign in ("positive", "negative"):
            for number, prompt in enumerate(getattr(finding, sign), 1):
                try:
                    tokenizer.encode([prompt])
                except FindingsError as error:
                    where = f"finding {finding.name[:40]!r}: {sign} prompt {number}"
                    what = error.what.replace("prompt 1 of 1", where, 1)
                    raise FindingsError(what, why=error.why, fix=error.fix) from None


def require_finding_set(findings: object) -> None:
    """Raise UsageError for names, or anything else, instead of a `FindingSet`."""
    if not isinstance(findings, FindingSet):
        raise UsageError("findings is not a FindingSet", fix="For names, write FindingSet.from_names([...]).")


def unknown_finding(name: str, known: Collection[str]) -> FindingsError:
    """Return the error for a name that is not among the known findings: it suggests the nearest name, or lists all."""
    keys = {finding_key(other): other for other in known}
    near = difflib.get_close_matches(finding_key(name), keys, n=1)
    return FindingsError(
        f"there is no finding {name[:40]!r}",
        fix=f"Did you mean {keys[near[0]]!r}?" if near else f"The findings are: {', '.join(known) or 'none'}.",
    )


def _filled(label: str, sign: str, templates: object, name: str) -> tuple[str, ...]:
    """Templates with the name put in, or a FindingsError, which tells a prompt's place: its text may be a patient's."""
    if not isinstance(templates, list | tuple):
        raise FindingsError(
            f"{label} must have a list of {sign} prompts, not {_kind(templates)}", fix=f'Write {sign} = ["..."].'
        )
    if not templates and sign != "negative":
        raise FindingsError(f"{label} has an empty list of {sign} prompts", fix="Leave the key out to use the default.")
    for number, template in enumerate(templates, 1):
        prompt = f"{sign} prompt {number}"
        if not isinstance(template, str):
            raise FindingsError(f"{label} has {_kind(template)} instead of a text as {prompt}")
        if not template.strip():
            raise FindingsError(f"{label} has an empty {prompt}", fix="Write a prompt or take it out.")
        if _has_control(template):
            raise FindingsError(f"{label} has a line break or another control character in {prompt}")
        if {"{", "}"} & set(template.replace("{}", "")):
            raise FindingsError(
                f"{label} has a placeholder that is not understood in {prompt}",
                fix="The only placeholder is {}, which stands for the finding's name.",
            )
        if len(template) + template.count("{}") * (len(name) - 2) > MAX_PROMPT_CHARACTERS:
            raise FindingsError(
                f"{label} has more than {MAX_PROMPT_CHARACTERS} characters in {prompt}",
                why="a text encoder reads 77 tokens or a few more",
                fix="Shorten it.",
            )
    first: dict[str, int] = {}
    for number, template in enumerate(templates, 1):
        text = template.replace("{}", name)
        if first.setdefault(text, number) != number:
            raise FindingsError(
                f"{label} has {sign} prompts {first[text]} and {number} with the same text", fix="Remove one."
            )
    return tuple(first)


def _check_number(defaults: dict[str, Any], tables: list[dict[str, Any]]) -> None:
    """Refuse too many prompts before one is made: a list of defaults counts for each finding that uses it."""
    prompts = 0
    for table in tables:
        lists = ({**defaults, **table}[sign] for sign in defaults)
        prompts += sum(len(one) for one in lists if isinstance(one, list | tuple))
    if prompts > MAX_PROMPTS:
        raise FindingsError(f"the findings have {prompts} prompts", why=f"at most {MAX_PROMPTS} are read", fix=SPLIT)


def _check_keys(table: dict[str, Any], known: tuple[str, ...], subject: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"It may have {', '.join(known)}."
            raise FindingsError(f"{subject} the unknown key {key[:40]!r}", fix=fix)


def _has_control(text: str) -> bool:
    return _CONTROL.search(text) is not None


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", dict: "a table", list: "a list"}
    return names.get(type(value), type(value).__name__)


def _quoted(value: str | tuple[str, ...]) -> str:
    # JSON's strings and lists of strings are TOML's too, once control characters are ruled out.
    return json.dumps(value, ensure_ascii=False)
