"""The one place where what a third-party parser does on bad content is turned into our own errors."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

from PIL import Image

from lrclr.errors import ImageError, ImageLimitError, LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["attempt"]

T = TypeVar("T")

_PARSERS = r"(PIL|pydicom|pylibjpeg|openjpeg|rle|jpeg_ls|gdcm|lrclr\.images)(\.|$)"


class _QuietParsers:
    """Keeps the warnings of image parsers from the user while any thread is inside.

    What a parser warns about is either harmless or ends in an error that we raise. `warnings.catch_warnings` will not
    do: it saves and restores the filters of the whole process, so two threads that leave in another order than they
    came would leave each other's filters behind. This adds one narrow filter, and takes away that one only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filter: object = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            # Each time, not only the first: another thread may have restored filters that ours is not among.
            warnings.filterwarnings("ignore", module=_PARSERS)
            self._filter = warnings.filters[0]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            filters = cast("list[Any]", warnings.filters)
            if not self._inside and self._filter in filters:
                filters.remove(self._filter)


_quiet_parsers = _QuietParsers()


def attempt(step: Callable[[], T], *, failure: str, fix: str | None = None) -> T:
    """Run `step`, which calls a third-party parser on content that nobody vouches for.

    Args:
        step: what to run. Errors of our own pass through it unchanged.
        failure: what happened if it fails, as a clause. The parser's own message is not shown, for it may quote the
            content.
        fix: what the reader can do about it.

    Raises:
        ImageError: the parser failed. It carries neither cause nor context: those may hold the content, too.
        ImageLimitError: the memory did not suffice, or the parser has a limit of its own.
    """
    refused: ImageError
    with _quiet_parsers:
        try:
            return step()
        except LrclrError:
            raise
        except (MemoryError, Image.DecompressionBombError):
            refused = ImageLimitError(failure, why="it asks for more memory than there is, or than the decoder allows")
        except Exception:  # noqa: BLE001 - on bad content a parser raises nearly anything: KeyError, struct.error...
            refused = ImageError(failure, fix=fix)
        except BaseException as error:
            # What a decoder written in Rust raises on bad content, which is no Exception by design.
            if type(error).__name__ != "PanicException":
                raise
            refused = ImageError(failure, fix=fix)
    # Raised out here, so that the parser's exception does not hang on it as its context.
    raise refused
