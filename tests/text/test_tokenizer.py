"""The tokenizer, compared with transformers' CLIP, with a BPE written in this file, and with known token numbers."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrclr.errors import CheckpointError, FindingsError, UsageError
from lrclr.text import ClipTokenizer, FindingSet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOS, EOT = 49406, 49407
FILE = resources.files("lrclr").joinpath("data", "clip_tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer.default()


def ids(tokenizer: ClipTokenizer, text: str) -> list[int]:
    return [int(number) for number in tokenizer.encode([text]).input_ids[0]]


@functools.lru_cache(maxsize=1)
def _with_long_context() -> ClipTokenizer:
    """The same tokenizer with a context longer than every generated text."""
    return ClipTokenizer(FILE.read_bytes(), source="the CLIP tokenizer", context_length=4096)


# Token numbers from OpenAI's published tokenizer.
GOLDEN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "a diagram": [320, 22697],
    "hello world!": [3306, 1002, 256],
    "Atelectasis": [992, 944, 6538, 533],
    "no Enlarged Cardiomediastinum": [871, 38136, 3480, 6211, 3693, 570, 1761, 512, 1008],
    "Pneumothorax": [28714, 617, 4130, 9203],
    "\tno\nacute  process ": [871, 19734, 4078],
    "There's 3.5cm nodule": [997, 568, 274, 269, 276, 3741, 578, 691, 579],
    "'s !'s ''t": [568, 13222, 338, 8445, 339],
    "naïve café 🙂": [1097, 35689, 563, 15304, 14860],
    "肺炎 Γειά": [164, 224, 118, 163, 224, 492, 138, 111, 138, 113, 138, 117, 138, 361],
    "½ ² Ⅻ": [33613, 41175, 158, 227, 375],
    "a\x00b": [320, 444, 321],
    "": [],
}


@pytest.mark.parametrize("text", GOLDEN, ids=ascii)
def test_golden_ids(tokenizer: ClipTokenizer, text: str) -> None:
    assert ids(tokenizer, text) == [BOS, *GOLDEN[text], EOT]


def test_properties_of_the_tokenizer(tokenizer: ClipTokenizer) -> None:
    assert (tokenizer.context_length, tokenizer.vocab_size) == (77, 49408)
    assert (tokenizer.bos_id, tokenizer.eot_id) == (BOS, EOT)


@functools.lru_cache(maxsize=1)
def _model() -> dict[str, Any]:
    model: dict[str, Any] = json.loads(FILE.read_bytes())["model"]
    return model


@functools.lru_cache(maxsize=1)
def _transformers() -> Callable[[str], list[int]]:
    from transformers import CLIPTokenizer

    merges = [tuple(merge.split(" ")) for merge in _model()["merges"]]
    oracle = CLIPTokenizer(vocab=_model()["vocab"], merges=merges)
    return lambda text: list(oracle(text)["input_ids"])


def test_identical_to_transformers_on_hundreds_of_phrases() -> None:
    oracle, roomy = _transformers(), _with_long_context()
    frames = ("{}", "no {}", "There is {}.", "FINDINGS: {};", "{}'s extent (3.5 cm) hasn't changed", "{}/{} -- {}?!")
    nouns = (*FindingSet.default().names, "opacité", "Ödem", "ΠΝΕΥΜΟΝΙΑ", "胸水", "x" * 40, "3rd-rib", "a_b", "ﬁbrosis")
    phrases = [frame.replace("{}", noun) for frame in frames for noun in (*nouns, *FindingSet.default().prompts)]
    assert len(phrases) >= 300
    assert [ids(roomy, phrase) for phrase in phrases] == [oracle(phrase) for phrase in phrases]


@settings(deadline=None)  # the first example loads the oracle
@given(st.text(max_size=60))
@example("ΑΣ ΣΑΣ İstanbul ǅ")
@example("a\u0085b\u00a0c\u200bd\u3000e\ufeff")
@example("e\u0301 \u1100\u1161 \u212b")
@example("<|startoftext <|endoftext| |> <|ENDOFTEXT|>")
def test_identical_to_transformers_on_any_text(text: str) -> None:
    roomy = _with_long_context()
    expected = _transformers()(text)
    if BOS in expected[1:-1] or EOT in expected[1:-1]:
        with pytest.raises(FindingsError, match="marker"):
            roomy.encode([text])
    else:
        assert ids(roomy, text) == expected


@functools.lru_cache(maxsize=1)
def _bytes() -> dict[int, str]:
    """Bytes as printable characters. Printable bytes represent themselves, the others are numbered from 256."""
    plain = [b for b in range(256) if b in range(33, 127) or (b in range(161, 256) and b != 173)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(others)}


@functools.lru_cache(maxsize=1)
def _ranks() -> dict[tuple[str, str], int]:
    return {tuple(merge.split(" ")): rank for rank, merge in enumerate(_model()["merges"])}


def _bpe_by_hand(text: str) -> list[int]:
    text = "".join(character.lower() for character in unicodedata.normalize("NFC", text))
    numbers = []
    for word in regex.findall(r"'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", text):
        parts = [_bytes()[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            rank, place = min((_ranks().get(pair, 10**6), n) for n, pair in enumerate(itertools.pairwise(parts)))
            if rank == 10**6:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        numbers += [_model()["vocab"][part] for part in parts]
    return numbers


# Letters whose class is the same in all versions of Unicode that the libraries may use.
settled = st.characters(min_codepoint=32, max_codepoint=0x233, exclude_categories=("Cc", "Cf"))
settled |= st.sampled_from("αβγδωΩΨдяЖ肺炎胸あア한글🙂🫁—…“”€\t\n")


@settings(deadline=None)  # the first example loads the oracle
@given(st.text(settled, max_size=60))
def test_identical_to_a_bpe_by_hand(text: str) -> None:
    if "<|" not in text:
        assert ids(_with_long_context(), text) == [BOS, *_bpe_by_hand(text), EOT]


def test_the_vocabulary_is_in_openai_s_order() -> None:
    vocabulary, merges = _model()["vocab"], _model()["merges"]
    tokens = list(vocabulary)
    assert list(vocabulary.values()) == list(range(49408))
    assert sorted(tokens[:256]) == sorted(_bytes().values())
    assert tokens[:2] + tokens[255:257] == ["!", '"', "Ń", "!</w>"]
    assert tokens[256:512] == [token + "</w>" for token in tokens[:256]]
    assert tokens[512:-2] == [merge.replace(" ", "") for merge in merges]
    assert tokens[-2:] == ["<|startoftext|>", "<|endoftext|>"]


def test_a_batch_is_as_long_as_its_longest_prompt(tokenizer: ClipTokenizer) -> None:
    batch = tokenizer.encode(["a photo of a cat", "", "a dog"])
    assert batch.input_ids.dtype == batch.mask.dtype == np.int64
    assert batch.input_ids.tolist() == [
        [BOS, 320, 1125, 539, 320, 2368, EOT],
        [BOS, EOT, 0, 0, 0, 0, 0],
        [BOS, 320, 1929, EOT, 0, 0, 0],
    ]
    assert batch.mask.tolist() == [[1] * 7, [1] * 2 + [0] * 5, [1] * 4 + [0] * 3]


def test_a_given_length_pads_and_changes_nothing_else(tokenizer: ClipTokenizer) -> None:
    short, long = tokenizer.encode(["a cat", "Edema"]), tokenizer.encode(["a cat", "Edema"], length=77)
    width = short.input_ids.shape[1]
    assert long.input_ids.shape == long.mask.shape == (2, 77)
    assert (long.input_ids[:, :width] == short.input_ids).all()
    assert not long.input_ids[:, width:].any()
    assert not long.mask[:, width:].any()


@settings(deadline=None)  # the first example loads the oracle
@given(st.lists(st.text(settled, max_size=20).filter(lambda text: "<|" not in text), min_size=1, max_size=5))
def test_the_mask_ends_at_the_single_end_token(texts: list[str]) -> None:
    batch = _with_long_context().encode(texts)
    for row, mask in zip(batch.input_ids, batch.mask, strict=True):
        end = int(mask.sum()) - 1
        assert np.flatnonzero(row == EOT).tolist() == [end] == [int(row.argmax())]
        assert mask.tolist() == [1] * (end + 1) + [0] * (len(mask) - end - 1)
        assert not row[end + 1 :].any()


def test_the_longest_prompt_that_fits(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.encode(["cat " * 75]).input_ids.shape == (1, 77)


def test_a_prompt_that_is_too_long_is_refused_without_quoting_it(tokenizer: ClipTokenizer) -> None:
    with pytest.raises(FindingsError) as caught:
        tokenizer.encode(["Edema", "y" + "dog " * 75 + "secret"])
    assert str(caught.value).startswith("prompt 2 of 2 has 79 tokens: at most 77 are possible")
    assert "dog" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_truncation_keeps_the_first_and_last_token(tokenizer: ClipTokenizer) -> None:
    batch = tokenizer.encode(["dog " + "cat " * 200, "dog"], truncate=True)
    assert batch.input_ids[0].tolist() == [BOS, 1929, *[2368] * 74, EOT]
    assert batch.mask[0].all()
    cut = tokenizer.encode(["a photo of a cat"], truncate=True, length=4)
    assert cut.input_ids.tolist() == [[BOS, 320, 1125, EOT]]


def test_a_given_length_is_also_a_limit(tokenizer: ClipTokenizer) -> None:
    with pytest.raises(FindingsError, match="has 7 tokens: at most 4 are possible"):
        tokenizer.encode(["a photo of a cat"], length=4)


@pytest.mark.parametrize("length", [-1, 0, 1, 78])
def test_a_length_beyond_the_models_context_is_refused(tokenizer: ClipTokenizer, length: int) -> None:
    with pytest.raises(UsageError, match="Give 2 to 77"):
        tokenizer.encode(["cat"], length=length)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no prompts"),
        ((), "no prompts"),
        ("Edema", "must be a list of texts"),
        (["Edema", None], "prompt 2 of 2 is not a text but NoneType"),
        ([b"Edema"], "prompt 1 of 1 is not a text but bytes"),
        (["\ud800"], "prompt 1 of 1 holds half of a surrogate pair"),
        (["cat <|endoftext|> dog"], "holds a beginning or end marker"),
        (["<|startoftext|>"], "holds a beginning or end marker"),
    ],
)
def test_invalid_prompts_are_refused(tokenizer: ClipTokenizer, texts: Any, message: str) -> None:
    with pytest.raises(FindingsError, match=message):
        tokenizer.encode(texts)


def test_saving_keeps_the_bytes_and_the_hash(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    assert path.read_bytes() == FILE.read_bytes()
    assert tokenizer.sha256 == hashlib.sha256(FILE.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\n")
    again = ClipTokenizer.from_file(path, context_length=16)
    assert again.sha256 != tokenizer.sha256
    assert again.context_length == 16
    with pytest.raises(FindingsError, match="at most 16 are possible"):
        again.encode(["cat " * 15])


def _edited(tmp_path: Path, **changes: Any) -> Path:
    """A small word-level tokenizer.json. A change of None removes the key."""
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"cat": 0, "dog": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content | changes))
    return path


def _words(*words: str, unk: str = "[UNK]") -> dict[str, Any]:
    return {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": unk}


def _bert(first: str = "[CLS]", last: str = "[SEP]") -> dict[str, Any]:
    return {"type": "BertProcessing", "sep": [last, 4], "cls": [first, 3]}


def test_markers_are_the_tokens_that_a_tokenizer_adds(tmp_path: Path) -> None:
    model = _words("cat", "dog", "[UNK]", "[CLS]", "[SEP]")
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2}
    padding |= {"pad_type_id": 0, "pad_token": "[UNK]"}
    path = _edited(tmp_path, model=model, post_processor=_bert(), truncation=truncation, padding=padding)
    other = ClipTokenizer.from_file(path)
    assert (other.bos_id, other.eot_id, other.vocab_size) == (3, 4, 5)
    assert other.encode(["dog cat bird cat"]).input_ids.tolist() == [[3, 1, 0, 2, 0, 4]]


def test_markers_known_by_name_are_added_if_the_tokenizer_does_not_add_them(tmp_path: Path) -> None:
    path = _edited(tmp_path, model=_words("cat", "<|endoftext|>", "<|startoftext|>", "[UNK]"))
    other = ClipTokenizer.from_file(path)
    assert other.encode(["cat"]).input_ids.tolist() == [[2, 0, 1]]


def test_an_unknown_word_that_becomes_an_end_token_is_refused(tmp_path: Path) -> None:
    path = _edited(tmp_path, model=_words("cat", "<|endoftext|>", "<|startoftext|>", unk="<|endoftext|>"))
    with pytest.raises(FindingsError, match="a word outside the vocabulary"):
        ClipTokenizer.from_file(path).encode(["bird"])


def test_a_word_that_the_library_cannot_encode_is_a_findings_error(tmp_path: Path) -> None:
    path = _edited(tmp_path, model=_words("cat", "<|endoftext|>", "<|startoftext|>"))
    with pytest.raises(FindingsError, match=r"prompt 1 of 1.*cannot be encoded"):
        ClipTokenizer.from_file(path).encode(["bird"])


@pytest.mark.parametrize(
    "post_processor", [None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}]
)
def test_a_tokenizer_without_markers_is_refused(tmp_path: Path, post_processor: Any) -> None:
    with pytest.raises(CheckpointError, match=r"end-of-text tokens cannot be determined: .*lacks <\|startoftext\|>"):
        ClipTokenizer.from_file(_edited(tmp_path, post_processor=post_processor))


def test_one_token_for_beginning_and_end_is_refused(tmp_path: Path) -> None:
    same = {"type": "BertProcessing", "sep": ["dog", 1], "cls": ["dog", 1]}
    with pytest.raises(CheckpointError, match="cannot be determined: it puts 2 tokens around a text"):
        ClipTokenizer.from_file(_edited(tmp_path, post_processor=same))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"[]",
        lambda data: b"\xff\xfe",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"WordLevel"', b'"Nonsense"'),
        lambda data: b"PK\x03\x04" + data,
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = _edited(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        ClipTokenizer.from_file(path)


def test_a_file_that_makes_the_library_panic_is_refused(tmp_path: Path) -> None:
    template = [{"SpecialToken": {"id": "unknown", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    broken = {"type": "TemplateProcessing", "single": template, "pair": template, "special_tokens": {}}
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        ClipTokenizer.from_file(_edited(tmp_path, post_processor=broken))


def test_a_missing_file_and_a_context_that_is_too_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        ClipTokenizer.from_file(tmp_path / "none.json")
    with pytest.raises(UsageError, match="no room"):
        ClipTokenizer.from_file(_edited(tmp_path), context_length=1)


def test_threads_can_share_a_tokenizer(tokenizer: ClipTokenizer) -> None:
    texts = [f"finding number {n} of the {'left' if n % 2 else 'right'} lung" for n in range(64)]
    expected = tokenizer.encode(texts).input_ids
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: tokenizer.encode(texts).input_ids, range(32)))
    assert all((result == expected).all() for result in results)


def test_a_fork_after_encoding_prints_no_warning_and_torch_is_not_needed() -> None:
    code = """
import os, sys
from lrclr.text import ClipTokenizer
assert "tokenizers" not in sys.modules
tokenizer = ClipTokenizer.default()
tokenizer.encode(["a cat", "a dog"] * 50)
child = os.fork()
tokenizer.encode(["a cat", "a dog"] * 50)
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert not {"torch", "transformers", "onnx"} & sys.modules.keys()
"""
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
