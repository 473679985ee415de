"""Pickles read as data: nothing is imported, and nothing is called.

`pickle` and ``torch.load`` execute a pickle's program. This reader interprets the few operations that build values, and
keeps everything else as an `Inert` object: a class name and the values that belong to it. So an argparse namespace, a
NumPy scalar or a Lightning hyper-parameter beside the weights does no harm, and neither does hostile code.

References: Python's ``pickletools`` for the operations; ``torch/_utils.py`` and ``torch/serialization.py`` for how a
tensor is written.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

import torch

# Some hundred thousand are what a network with its optimizer takes. One operation makes at most some hundred bytes.
MAX_OPERATIONS: Final = 2_000_000
_LONGEST_NAME: Final = 500

_STORAGES: Final = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class PickleError(ValueError):
    """A pickle that cannot be read; its text is a clause that says why."""


class Global(NamedTuple):
    """The name of a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """Stands for an instance of any class, without its behaviour.

    Attributes:
        kind: the name of its class, or of the function that would have made it.
        state: its attributes.
        items: what it holds as a mapping.
    """

    kind: str
    state: object = None
    items: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that lie outside the pickle.

    Attributes:
        dtype: their type.
        key: key under which the file has them.
        count: how many there are.
    """

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor as a pickle describes it: a view of a storage that it does not leave, and does not repeat."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = 1
        for length in self.size:
            count *= length
        return count * self.storage.dtype.itemsize


@dataclass(frozen=True, slots=True)
class OtherTensor:
    """A tensor of a kind that lrclr does not read, such as a sparse one."""

    kind: str


def read_pickle(stream: IO[bytes]) -> tuple[object, dict[str, Storage]]:
    """Read one pickle from a stream.

    Returns:
        its value, made of Python's literals, `Inert`, `Global`, `TensorView` and `OtherTensor`; and the storages by
        key.

    Raises:
        PickleError: it is damaged, or uses what no checkpoint uses.
    """
    machine = _Machine()
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if number > MAX_OPERATIONS:
                raise PickleError(f"its pickle has more than {MAX_OPERATIONS} operations")
            machine.do(operation.name, argument)
        (value,) = machine.stack
    except (PickleError, OSError):
        raise
    except Exception as error:
        # Damaged programs take from empty stacks, and ask the memo for what is not there.
        raise PickleError("its pickle is damaged") from error
    return value, machine.storages


_LITERALS: Final = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_NOTHING: Final = frozenset(("PROTO", "FRAME", "STOP"))


class _Machine:
    """The pickle machine's stack and memo. Each method is the operation of its name."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def do(self, operation: str, argument: Any) -> None:
        if operation in _LITERALS:
            self.stack.append(argument)
        elif operation not in _NOTHING:
            method = getattr(self, f"_{operation.lower()}", None)
            if method is None:
                raise PickleError(f"its pickle uses the operation {operation}")
            method() if argument is None else method(argument)

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _mark(self) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _pop(self) -> None:
        # A mark that nothing was put on is popped as a value is.
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self) -> None:
        self._since_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _none(self) -> None:
        self.stack.append(None)

    def _newtrue(self) -> None:
        self.stack.append(True)

    def _newfalse(self) -> None:
        self.stack.append(False)

    # Memo.

    def _put(self, place: int) -> None:
        self._memo[place] = self.stack[-1]

    def _get(self, place: int) -> None:
        self.stack.append(self._memo[place])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    # Containers. A set is kept as a list: nothing from the file may choose what is hashed.

    def _empty_list(self) -> None:
        self.stack.append([])

    _empty_set = _empty_list

    def _list(self) -> None:
        items = self._since_mark()
        self.stack.append(items)

    _frozenset = _list

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        items = self._since_mark()
        self._extend(items)

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise PickleError("its pickle appends to what is not a list")

    def _empty_tuple(self) -> None:
        self.stack.append(())

    def _tuple(self) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _tuple1(self) -> None:
        self._last(1)

    def _tuple2(self) -> None:
        self._last(2)

    def _tuple3(self) -> None:
        self._last(3)

    def _last(self, count: int) -> None:
        if len(self.stack) < count:
            raise PickleError("its pickle is damaged")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _empty_dict(self) -> None:
        self.stack.append({})

    def _dict(self) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._update(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        items = self._since_mark()
        self._update(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError("its pickle sets items of what is not a table")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_hashable(key)] = value

    # Classes and calls, of which none happens.

    def _global(self, name: str) -> None:
        self.stack.append(_named(*name.split(" ", 1)))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_named(module, name))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_made(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._reduce()

    def _obj(self) -> None:
        cls, *arguments = self._since_mark()
        self.stack.append(_made(cls, tuple(arguments)))

    def _inst(self, name: str) -> None:
        arguments = self._since_mark()
        self.stack.append(_made(_named(*name.split(" ", 1)), tuple(arguments)))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state

    def _binpersid(self) -> None:
        kind, storage_type, key, _, count, *views = self.stack.pop()
        dtype = _STORAGES.get(storage_type.name) if isinstance(storage_type, Global) else None
        if kind != "storage" or not isinstance(key, str) or not _is_count(count) or any(views):
            raise PickleError("its pickle refers to what is not a storage")
        if dtype is None:
            self.stack.append(OtherTensor(f"of {storage_type}" if isinstance(storage_type, Global) else "of no type"))
            return
        storage = Storage(dtype, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError("its pickle describes a storage in two ways")
        self.stack.append(storage)


def _named(module: object, name: object) -> Global:
    # Names are copied with each use, so that a long one would be a way to fill memory.
    if not all(isinstance(part, str) and len(part) < _LONGEST_NAME for part in (module, name)):
        raise PickleError("its pickle has an invalid name of a class")
    return Global(str(module), str(name))


def _hashable(key: object) -> object:
    """Return a dictionary's key, or a stand-in for one whose hash the file could choose: those may all collide."""
    if isinstance(key, str | float | None) or (isinstance(key, int) and abs(key) < 2**63):
        return key
    return object()


def _made(function: object, arguments: object) -> object:
    """Return what stands for the value of a call; every case costs the same whatever the arguments are."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise PickleError("its pickle calls what is not a function")
    name = str(function)
    if name in _CALLS:
        return _CALLS[name](*arguments)
    if function.module.startswith("torch") and function.name.startswith("_rebuild"):
        return OtherTensor(f"made by {name}")
    return Inert(name)


def _view(storage: object, offset: object, size: Any, stride: Any, *rest: object) -> TensorView | OtherTensor:
    if isinstance(storage, OtherTensor):
        return storage
    # After the gradient's flag and the hooks come the marks of a conjugated or negated tensor.
    if len(rest) > 2 and rest[2]:
        return OtherTensor("with a mark such as a negation")
    whole = isinstance(size, tuple | list) and isinstance(stride, tuple | list) and len(size) == len(stride) <= 64
    if not isinstance(storage, Storage) or not whole or not all(map(_is_count, (offset, *size, *stride))):
        raise PickleError("its pickle describes an invalid tensor")
    view = TensorView(storage, offset, tuple(size), tuple(stride))  # type: ignore[arg-type]
    count = view.nbytes // storage.dtype.itemsize
    last = view.offset + sum((length - 1) * step for length, step in zip(view.size, view.stride, strict=True))
    if count > storage.count or (count and last >= storage.count):
        raise PickleError("a tensor is larger than its storage, or repeats it")
    return view


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _first(value: object, *_: object) -> object:
    return value


def _typed(function: object, cls: object, arguments: object, *_: object) -> object:
    if not isinstance(cls, Global) or not isinstance(function, Global):
        raise PickleError("its pickle describes an invalid tensor")
    # Not nested: a function that is this one again would need a stack of calls.
    if str(cls) not in _TENSOR_TYPES or str(function) == _TYPED:
        return OtherTensor(f"of {cls}")
    return _made(function, arguments)


def _table(*_: object) -> dict[object, object]:
    # Its items follow as operations of their own.
    return {}


_TENSOR_TYPES: Final = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_TYPED: Final = "torch._tensor._rebuild_from_type_v2"
# By name, and never the functions themselves.
_CALLS: Final[dict[str, Callable[..., object]]] = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    _TYPED: _typed,
    "collections.OrderedDict": _table,
    "collections.defaultdict": _table,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
}
