"""Pickles are read as data: no name is imported or called, and a small file takes little memory and time."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrclr.checkpoints import load_checkpoint

# Private: the pickle interpreter is tested on programs that checkpoints do not contain.
from lrclr.checkpoints._files import read_file
from lrclr.checkpoints._pickle import MAX_OPERATIONS, Global, Inert, PickleError, TensorView, read_pickle
from lrclr.errors import CheckpointError
from tests.checkpoints.spoiling import SMALL, refusal, saved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_recorded_events: list[str] | None = None


def _record_event(event: str, arguments: tuple[Any, ...]) -> None:
    acts = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "pickle.find_class", "ctypes.", "open")
    if _recorded_events is not None and event.startswith(acts):
        _recorded_events.append(f"{event} {arguments[:1]}")


@contextmanager
def no_imports_or_calls() -> Iterator[None]:
    """Assert that nothing is imported, executed or opened."""
    global _recorded_events  # noqa: PLW0603 - a hook cannot be taken away
    if not _is_hook_installed:
        # Python imports the codec of old pickles' text at its first use.
        read(b"Va\n.")
        sys.addaudithook(_record_event)
        _is_hook_installed.append(True)
    _recorded_events = []
    try:
        yield
        heard = _recorded_events
    finally:
        _recorded_events = None
    assert heard == []


_is_hook_installed: list[bool] = []


def read(program: bytes) -> object:
    return read_pickle(io.BytesIO(program))[0]


def test_the_audit_hook_records_events(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="find_class"), no_imports_or_calls():
        pickle.loads(b"\x80\x02cfractions\nFraction\n.")


HOSTILE = [
    b"\x80\x02cos\nsystem\n(Vtrue\ntR.",
    b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR(Vtrue\ntR.",
    b"(ios\nsystem\nVtrue\n.".replace(b"Vtrue\n", b""),
    b"(cos\nsystem\nVtrue\no.",
    b"\x80\x02cos\nsystem\nVtrue\n\x85\x81.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85}\x92.",
    b"\x80\x02ctorch\nload\nVx\n\x85R.",
    b"\x80\x02ctorch._utils\n_rebuild_parameter\n(cos\nsystem\nVtrue\n\x85R\x89NtR.",
    b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\nVtrue\n\x85NtR.",
    b"\x80\x02ccollections\nOrderedDict.fromkeys\n.",
    b"\x80\x02c__torch__\nModel\n)\x81}V__class__\ncos\nsystem\nsb.",
    b"\x80\x02ccollections\ndefaultdict\n(cos\nsystem\ntR.",
]


@pytest.mark.parametrize("program", HOSTILE)
def test_names_in_a_pickle_are_not_called(program: bytes) -> None:
    with no_imports_or_calls():
        try:
            value = read(program)
        except PickleError:
            return
    assert isinstance(value, Inert | Global | dict) or str(value).startswith("OtherTensor")


WORDS = st.sampled_from(["os", "system", "torch._utils", "_rebuild_tensor_v2", "a", "storage", "0", "visual.proj"])
NAMES = st.sampled_from(
    [
        "os system",
        "builtins eval",
        "torch FloatStorage",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch._tensor _rebuild_from_type_v2",
        "collections OrderedDict",
        "__torch__ Model",
        "numpy.core.multiarray scalar",
    ]
)


def step(data: st.DataObject) -> bytes:
    """Any one operation with an argument of its type."""
    operation = data.draw(st.sampled_from(pickletools.opcodes))
    code = operation.code.encode("latin-1")
    match operation.arg.name if operation.arg else None:
        case None:
            return code
        case "stringnl_noescape_pair":
            return code + "\n".join(data.draw(NAMES).split()).encode() + b"\n"
        case "unicodestring1" | "string1" | "bytes1":
            word = data.draw(WORDS).encode()
            return code + bytes([len(word)]) + word
        case "unicodestringnl" | "stringnl_noescape" | "stringnl":
            return code + f"{data.draw(WORDS)!r}".encode() + b"\n"
        case "unicodestring4" | "string4" | "bytes4":
            word = data.draw(WORDS).encode()
            return code + struct.pack("<I", data.draw(st.sampled_from([len(word), 2**31 - 1]))) + word
        case "unicodestring8" | "bytes8" | "bytearray8":
            word = data.draw(WORDS).encode()
            return code + struct.pack("<Q", data.draw(st.sampled_from([len(word), 2**62]))) + word
        case "uint1":
            return code + bytes([data.draw(st.integers(0, 5))])
        case "uint4" | "int4":
            return code + struct.pack("<I", data.draw(st.sampled_from([0, 1, 2, 3, 2**31 - 1])))
        case "decimalnl_short" | "decimalnl_long":
            return code + str(data.draw(st.integers(-3, 3))).encode() + b"\n"
        case "long1":
            return code + b"\x01\x05"
        case _:
            return code + data.draw(st.binary(max_size=9))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_pickle_is_read_or_refused(data: st.DataObject) -> None:
    program = b"\x80\x02" + b"".join(step(data) for _ in range(data.draw(st.integers(0, 40)))) + b"."
    with no_imports_or_calls(), suppress(PickleError):
        read(program)


@settings(max_examples=200, deadline=None)
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=9)
        | st.binary(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=20,
    ),
    protocol=st.integers(3, 5),
)
def test_plain_values_equal_those_of_pickle(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_tensors_of_every_form_are_read(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"whole": whole, "turned": whole.t(), "part": whole[1:3, ::2], "half": whole.half(), "none": whole[:0]}
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "t.pt", _use_new_zipfile_serialization=not legacy)
        file = read_file(tmp_path / "t.pt")
        found = file.tensors(file.entries)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())


# Small files that demand much memory or time. Each is the pickle of a `torch.save` archive.

TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nJ\x00\x00\x10\x00tQ"
    b"K\x00J\x00\x00\x10\x00\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
)


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


def greedy() -> dict[str, bytes]:
    number = 200_000
    longs = b"".join(
        b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little", signed=True) + b"N" for k in range(1, 40_000)
    )
    return {
        "a place in the memo without bound": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "bytes without bound": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "a table copied again and again": b"\x80\x02(("
        + b"K\x01K\x02\x86" * number
        + b"lq\x00"
        + b"ccollections\nOrderedDict\nh\x00\x85R" * number
        + b"l.",
        "keys with one hash": b"\x80\x02}(" + longs + b"u.",
        "long names again and again": b"\x80\x04"
        + text(b"m" * 1_000_000)
        + b"q\x00"
        + b"h\x00h\x00\x93" * number
        + b".",
        "long keys in each other": b"\x80\x02"
        + text(b"k" * 100_000)
        + b"q\x000"
        + b"}h\x00" * 500
        + TENSOR
        + b"s" * 500
        + b".",
        "tuples in tuples": b"\x80\x02N" + b"\x85" * number + b".",
        "tables in tables": b"\x80\x02N" + b"q\x000}(Vm\nh\x00Vn\nh\x00u" * number + b".",
        "more operations than any checkpoint has": b"\x80\x02(" + b"}" * (MAX_OPERATIONS + 10) + b"l.",
        "one tensor under many names": b"\x80\x02"
        + TENSOR
        + b"q\x000}("
        + b"".join(text(b"t%d.visual.conv1.weight" % n) + b"h\x00" for n in range(2000))
        + b"u.",
        "a network of one tensor": b"\x80\x02"
        + TENSOR
        + b"q\x000}("
        + text(b"visual.conv1.weight")
        + b"h\x00"
        + b"".join(text(b"transformer.resblocks.%d.ln_1.weight" % n) + b"h\x00" for n in range(2000))
        + b"u.",
        "a tensor of a tensor type, without end": b"\x80\x02"
        + b"ctorch._tensor\n_rebuild_from_type_v2\n(" * 50_000
        + b".",
    }


def archive(program: bytes, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("a/data.pkl", program)
        packed.writestr("a/byteorder", sys.byteorder)
        packed.writestr("a/data/0", bytes(4 << 20))
    return file


def legacy(file: Path) -> Path:
    """A file in the format before zip archives. Its list of storages contains itself 2 to the power of 60 times."""
    keys: list[Any] = []
    for _ in range(60):
        keys = [keys, keys]
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": sys.byteorder == "little"}, {}, keys]
    file.write_bytes(b"".join(pickle.dumps(value, 2) for value in head))
    return file


CHILD = """
import resource, sys
from pathlib import Path
from benchmarks.memory import peak_mb
from lrclr.checkpoints import load_checkpoint
from lrclr.errors import CheckpointError

# Whatever happens, this process must not take the machine's memory or run for ever.
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (4 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (240, 240))
for file in map(Path, sys.argv[1:]):
    before = peak_mb()
    try:
        load_checkpoint(file, heads=(1, 1))
        message = "it was read"
    except CheckpointError as error:
        message = str(error)
    print(file.stem, round(peak_mb() - before), message, sep="|", flush=True)
"""


@pytest.mark.slow
def test_a_small_file_takes_little_memory_and_time(tmp_path: Path) -> None:
    files = [archive(program, tmp_path / f"{name}.pt") for name, program in greedy().items()]
    files.append(legacy(tmp_path / "a list of storages within itself.pt"))
    done = subprocess.run([sys.executable, "-c", CHILD, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split("|", 2) for line in done.stdout.splitlines()]
    assert len(lines) == len(files)
    for name, megabytes, message in lines:
        assert int(megabytes) < 400, name
        assert message != "it was read", name
    errors = {name: message for name, _, message in lines}
    assert "operations" in errors["more operations than any checkpoint has"]
    assert "repeat its numbers" in errors["a network of one tensor"]


def test_a_tensor_outside_its_storage_or_with_repeats_is_refused() -> None:
    def tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int = 12) -> bytes:
        stream = io.BytesIO()

        class Program(pickle.Pickler):
            def persistent_id(self, obj: object) -> object:
                return ("storage", FLOATS, "0", "cpu", count) if obj is STORAGE else None

        STORAGE = object()
        Program(stream, 2).dump((STORAGE, offset, size, stride, False, None))
        program = stream.getvalue()
        body = program[2:-1].replace(b"c__builtin__\nfloat\n", b"ctorch\nFloatStorage\n")
        return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + body + b"R."

    FLOATS = float
    assert read(tensor(0, (3, 4), (4, 1))) == read(tensor(0, (3, 4), (4, 1)))
    for offset, size, stride in [
        ((0), (3, 4), (1, 3)),
        ((11), (1,), (1,)),
        ((0), (2, 3), (5, 2)),
        ((0), (), ()),
        ((5), (0, 9), (9, 1)),
    ]:
        assert isinstance(read(tensor(offset, size, stride)), TensorView)
    for offset, size, stride in [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (12, (1,), (1,)),
        (0, (4, 4), (0, 1)),
        (0, (10**12,), (0,)),
        (0, (2, 2), (12, 1)),
        (0, (3,), (-1,)),
        (-1, (3,), (1,)),
        (0, (3, 4), (4,)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (1,) * 65, (1,) * 65),
    ]:
        with pytest.raises(PickleError):
            read(tensor(offset, size, stride))


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    file = saved({"visual.conv1.weight": torch.arange(1000.0)}, tmp_path / "clip.pt")
    whole = bytearray(file.read_bytes())
    place = whole.index(struct.pack("<f", 500.0))
    whole[place] ^= 1
    file.write_bytes(whole)
    assert "checksum" in refusal(file, SMALL)


def test_wrong_headers_of_safetensors_are_refused(tmp_path: Path) -> None:
    """The library refuses lengths and ranges beyond the file."""

    def header(content: bytes, data: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(content) if length is None else length) + content + data

    whole = b'{"visual.conv1.weight":{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}}'
    two = (
        b'{"visual.conv1.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"visual.proj":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}}'
    )
    for content in (
        header(whole % (b"[2]", 0, 8), bytes(8), 2**62),
        header(whole % (b"[2]", 0, 8), bytes(8), 10**9),
        header(whole % (b"[1000000000000]", 0, 8), bytes(8)),
        header(whole % (b"[2]", 0, 4 * 10**12), bytes(8)),
        header(whole % (b"[2]", 8, 16), bytes(16)),
        header(two % (0, 8), bytes(8)),
        header(two % (4, 12), bytes(12)),
        header(whole % (b"[2]", 0, 8), bytes(100)),
        header(b"{" + b" " * 100 + b"}"),
        header(b"{" + b"[" * 100_000),
    ):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "model.safetensors", heads=SMALL)
