"""Records in JSON files: msgspec checks every field, and an error says where in the file and quotes no value."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
# msgspec quotes the value in this message, and in no other.
_QUOTING = re.compile(r"Invalid enum value '.*'(?= - at|$)", re.DOTALL)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a JSON file. A field that is missing, unknown or of another type is an error."""


def json_content(data: bytes | str) -> Any:
    """The content of a JSON file, in Python's types.

    Raises:
        ValueError: it is not JSON in UTF-8, or holds NaN or infinity; the text is a clause that says why.
    """
    try:
        return msgspec.json.decode(data)
    except UnicodeError:
        raise ValueError("it is not UTF-8 text") from None
    except RecursionError:
        raise ValueError("it is not JSON: brackets are nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None


def record_from(content: Any, kind: type[_T]) -> _T:
    """A record from the content of a JSON file.

    Args:
        content: from `json_content`.
        kind: a subclass of `Record`, a dataclass, or another type that msgspec knows.

    Raises:
        ValueError: the content is of another form; the text is a clause that says what was expected, and where.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        text = _QUOTING.sub("Unknown value", str(error)).replace("`", "")
        # A name of a field comes from the file.
        raise ValueError(re.sub("[^ -~]", "?", text)[:200]) from None
