"""The findings file: its content, what is refused, and the messages."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrclr.errors import FindingsError
from lrclr.text import Finding, FindingSet

if TYPE_CHECKING:
    from pathlib import Path

CHEXZERO = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)


def test_the_default_is_chexzero_s_14_findings_with_their_names_as_given() -> None:
    findings = FindingSet.default()
    assert findings.names == CHEXZERO
    assert findings.findings[3] == Finding("Edema", ("Edema",), ("no Edema",))
    assert findings.prompts[:4] == ("Atelectasis", "no Atelectasis", "Cardiomegaly", "no Cardiomegaly")
    assert len(findings.prompts) == 28
    assert findings == FindingSet.from_names(CHEXZERO)


def test_own_prompts_replace_the_defaults_one_sign_at_a_time() -> None:
    findings = FindingSet.loads(
        """
        positive = ["{} is seen", "{}, yes {}"]
        [[finding]]
        name = "Edema"
        [[finding]]
        name = "Mass"
        positive = ["a {}", "nodule"]
        negative = ["clear lungs"]
        """
    )
    assert findings.findings == (
        Finding("Edema", ("Edema is seen", "Edema, yes Edema"), ("no Edema",)),
        Finding("Mass", ("a Mass", "nodule"), ("clear lungs",)),
    )


def test_a_shared_prompt_is_stored_once_for_both_findings() -> None:
    findings = FindingSet(
        (
            Finding("Edema", ("edema", "wet lungs"), ("clear lungs",)),
            Finding("Effusion", ("wet lungs", "fluid"), ("clear lungs", "no fluid")),
        )
    )
    assert findings.prompts == ("edema", "wet lungs", "clear lungs", "fluid", "no fluid")
    assert [index.tolist() for index in findings.positive_index] == [[0, 1], [1, 3]]
    assert [index.tolist() for index in findings.negative_index] == [[2], [2, 4]]
    assert findings.positive_index[0].dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        findings.positive_index[0][0] = 5


def test_findings_are_frozen_and_hashable() -> None:
    findings = FindingSet.from_names(["Edema"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        findings.findings = ()  # type: ignore[misc]
    assert hash(findings) == hash(FindingSet.from_names(["Edema"]))


def _usable(text: str) -> bool:
    return not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in "{}" for c in text)


names = st.text(min_size=1, max_size=30).map(str.strip).filter(lambda name: bool(name) and _usable(name))
prompts = st.text(min_size=1, max_size=30).filter(lambda text: bool(text.strip()) and _usable(text))
templates = st.lists(st.sampled_from(["{}", "a {} b", "{}{}", 'say "{}"', "\\{}"]) | prompts, min_size=1, max_size=4)


@st.composite
def finding_sets(draw: st.DrawFn) -> FindingSet:
    def fold(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    findings = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique_by=fold)):
        positive = list(dict.fromkeys(text.replace("{}", name) for text in draw(templates)))
        negative = list(dict.fromkeys("not " + text.replace("{}", name) for text in draw(templates)))
        findings.append(
            Finding(name, tuple(positive), tuple(text for text in negative if text not in positive) or ("-",))
        )
    return FindingSet(tuple(findings))


@settings(deadline=None)
@given(finding_sets())
def test_toml_round_trip(findings: FindingSet) -> None:
    assert FindingSet.loads(findings.to_toml()) == findings


@settings(deadline=None)
@given(finding_sets())
def test_the_indices_map_the_flat_prompts_to_each_finding(findings: FindingSet) -> None:
    assert len(set(findings.prompts)) == len(findings.prompts)
    rows = zip(findings.findings, findings.positive_index, findings.negative_index, strict=True)
    for finding, positive, negative in rows:
        assert tuple(findings.prompts[i] for i in positive) == finding.positive
        assert tuple(findings.prompts[i] for i in negative) == finding.negative


lines = st.lists(
    st.sampled_from(["[[finding]]", 'name = "Edema"', 'name = "Mass"', "[finding]", "name = 1", "finding = [1]"])
    | st.sampled_from(['positive = ["{}"]', 'positive = ["a", "{}"]', "negative = []", 'negative = "x"', "other = {}"])
    | st.text(max_size=20),
    max_size=8,
)


@settings(deadline=None)
@given(lines)
def test_any_text_gives_findings_or_a_findings_error(lines: list[str]) -> None:
    with contextlib.suppress(FindingsError):
        assert FindingSet.loads("\n".join(lines)).prompts


E1 = '[[finding]]\nname = "Edema"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"there are no findings.*\[\[finding\]\]"),
        ("# only a comment\n", "there are no findings"),
        ("finding = []", "there are no findings"),
        (E1 + "name = 3\n", "not valid TOML.*line 3"),
        (E1 + "positive = [\n", "not valid TOML"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "1" * 5000, "not valid TOML"),
        ('[finding]\nname = "Edema"\n', r"'finding' must be a list of tables, not a table.*\[\[finding\]\]"),
        ('finding = ["Edema"]', "'finding' must be a list of tables"),
        (E1 + E1, "two findings are called 'Edema' and 'Edema'"),
        (E1 + '[[finding]]\nname = "EDEMA"\n', "two findings are called 'Edema' and 'EDEMA'"),
        ('[[finding]]\nname = "é"\n[[finding]]\nname = "e\\u0301"\n', "two findings are called"),
        ("[[finding]]\n", "finding 1 has no name"),
        (E1 + "[[finding]]\nname = 7\n", "number 2: a finding's name must be a text, not a number"),
        ('[[finding]]\nname = " "\n', "number 1: a finding's name is empty"),
        ('[[finding]]\nname = " Edema"\n', "has spaces around its name"),
        ('[[finding]]\nname = "Ede\\nma"\n', "control character in its name"),
        ('[[finding]]\nname = "Ede\\u2028ma"\n', "control character in its name"),
        ('[[finding]]\nname = "{}"\n', "brace in its name"),
        (f'[[finding]]\nname = "{"x" * 201}"\n', "more than 200 characters"),
        (E1 + "positive = []\n", "'Edema' has an empty list of positive prompts"),
        (E1 + 'negative = [""]\n', "'Edema' has an empty negative prompt"),
        (E1 + 'negative = ["  "]\n', "'Edema' has an empty negative prompt"),
        (E1 + 'positive = "{}"\n', "'Edema' must have a list of positive prompts, not a text"),
        (E1 + "positive = [true]\n", "'Edema' has true or false instead of a text as positive prompt 1"),
        (E1 + 'positive = ["a\\tb"]\n', "control character in positive prompt 1"),
        (E1 + 'positive = ["{name}"]\n', r"placeholder that is not understood.*only placeholder is \{\}"),
        (E1 + 'positive = ["{"]\n', "placeholder that is not understood"),
        (E1 + 'positive = ["{{}}"]\n', "placeholder that is not understood"),
        (E1 + 'positive = ["{}", "Edema"]\n', "positive prompts 1 and 2 with the same text"),
        (E1 + 'positive = ["no {}"]\n', "'Edema' has its positive prompt 1 as negative prompt 1 too"),
        ('positive = ["{0}"]\n' + E1, "the default has a placeholder"),
        ("negative = 1\n" + E1, "the default must have a list of negative prompts, not a number"),
        (E1 + 'postive = ["x"]\n', "finding 1 has the unknown key 'postive'. Did you mean 'positive'"),
        ('findings = ["Edema"]', "unknown key 'findings'. Did you mean 'finding'"),
        (E1 + "colour = 1\n", "unknown key 'colour'. It may have name, positive, negative"),
    ],
)
def test_invalid_files_are_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(FindingsError) as caught:
        FindingSet.loads(text)
    assert "\n" not in str(caught.value)
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize("positive", ["{}", None, {"{}"}])
def test_a_finding_made_in_python_is_checked_too(positive: Any) -> None:
    with pytest.raises(FindingsError, match="'Edema' must have a list of positive prompts"):
        Finding("Edema", positive)


def test_a_single_text_instead_of_a_list_of_names_is_refused() -> None:
    with pytest.raises(FindingsError, match="must be a list"):
        FindingSet.from_names("Edema")


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(FindingsError, match="no findings"):
        FindingSet(())


def test_load_reads_files_of_common_editors(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbf[[finding]]\r\nname = "\xc3\x96dem"\r\n')
    assert FindingSet.load(path).prompts == ("Ödem", "no Ödem")


def test_load_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'[[finding]]\nname = "\xd6dem"\n')
    with pytest.raises(FindingsError, match=r"mine\.toml is not UTF-8 at line 2"):
        FindingSet.load(path)
    path.write_text("[[finding]]\nname = \n")
    with pytest.raises(FindingsError, match=r"mine\.toml: .*line 2"):
        FindingSet.load(path)


def test_load_refuses_a_file_that_is_not_a_findings_file(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match=r"none\.toml cannot be read: No such file"):
        FindingSet.load(tmp_path / "none.toml")
    with pytest.raises(FindingsError, match="cannot be read"):
        FindingSet.load(tmp_path)
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * 2**20)
    with pytest.raises(FindingsError, match="there are no findings"):
        FindingSet.load(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(FindingsError, match="larger than 1 MiB"):
        FindingSet.load(path)


class Counted(str):
    """A template whose prompts count how often they are compared."""

    compared = 0

    def replace(self, *arguments: Any) -> Counted:
        return Counted(super().replace(*arguments))

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_comparisons_grow_linearly_with_the_prompts() -> None:
    def compared(prompts: int) -> int:
        Counted.compared = 0
        positive = tuple(Counted(f"positive {number}") for number in range(prompts))
        Finding("Edema", positive, tuple(Counted(f"negative {number}") for number in range(prompts)))
        return Counted.compared

    assert compared(4000) <= 4 * 4000


BIG = 2**20
EXPENSIVE_TEXTS = {
    "many prompts": '[[finding]]\nname = "A"\npositive = ['
    + ",".join(f'"p{number}"' for number in range(64_000))
    + "]",
    "shared prompts": "positive = ["
    + ",".join(f'"p{number}"' for number in range(30_000))
    + "]\n"
    + "".join(f'[[finding]]\nname = "n{number}"\n' for number in range(8000)),
    "a long prompt made by repeating a name": f'[[finding]]\nname = "{"n" * 200}"\npositive = ["{"{}" * 500}"]',
    "a key of many parts": "a" + ".a" * (BIG // 3) + " = 1",
    "a quoted key of many parts": '"a"' + '."a"' * (BIG // 5) + " = 1",
    "a long header": "[a" + ".a" * 60_000 + "]\n" + "".join(f"b{number} = 1\n" for number in range(60_000)),
    "a key of many parts in a table": "a = {b" + ".b" * (BIG // 3) + " = 1}",
    "many tables": "".join(f"[t{number}]\n" for number in range(90_000)),
    "nesting": "a = " + "[" * (BIG // 4),
    "no line": "a" * BIG,
    "too long": "#" * (BIG + 1),
    **{
        f"texts that do not end: {one}": one * (BIG // len(one))
        for one in ('"', "'", '\\"""', '"\\', "'''x''", "a='", '"""\\"""\n')
    },
}


@pytest.mark.parametrize("what", EXPENSIVE_TEXTS)
def test_expensive_texts_are_refused_after_few_calls(what: str) -> None:
    """Calls are counted, not time: tomllib and the findings are Python code, and each step is a call or a line."""
    text, calls = EXPENSIVE_TEXTS[what], 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        with pytest.raises(FindingsError) as error:
            FindingSet.loads(text)
    finally:
        sys.setprofile(None)
    # Calls and returns of functions in Python and C.
    assert calls < 10 * len(text) + 1000
    assert len(str(error.value)) < 400
    # Texts for which tomllib takes quadratic time are refused before tomllib reads them.
    assert ("dots outside texts" in str(error.value)) == ("of many parts" in what or "header" in what)


def test_dots_in_texts_and_comments_are_not_counted_as_keys() -> None:
    text = """
    # ................
    [[finding]]
    name = "Edema.................."  # ...........
    positive = ["e.g. a.b.c.d.e.f.g.h.i.j", 'k.l.m.n.o.p.q.r.s.t'] # "x.
    """
    assert FindingSet.loads(text).findings[0].positive[1] == "k.l.m.n.o.p.q.r.s.t"


def test_names_instead_of_findings_are_refused() -> None:
    with pytest.raises(FindingsError, match="Write Finding"):
        FindingSet(["Edema"])  # type: ignore[arg-type]
