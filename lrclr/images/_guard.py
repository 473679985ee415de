"""Turns every failure of a third-party parser on bad content into an error of this package."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from PIL import Image

from lrclr.errors import ImageError, ImageLimitError, LrclrError

T = TypeVar("T")

_PARSERS = r"(PIL|pydicom|pylibjpeg|openjpeg|rle|jpeg_ls|gdcm|highdicom|lrclr\.images)(\.|$)"


class _QuietParsers:
    """Suppresses warnings of image parsers while any thread is in the context.

    Such a warning is either harmless, or the parser fails and an error follows. It may quote the name of a patient, as
    highdicom's does of a name with one component. `warnings.catch_warnings` is not safe here: it saves and restores the
    filters of the whole process, so overlapping threads could restore each other's filters. This class adds one narrow
    filter and removes only that one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filter: object = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            # Add the filter each time: another thread may have restored a list of filters without it.
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
    """Run `step`, which calls a third-party parser on untrusted content.

    Args:
        step: function to run. It may raise `LrclrError`, which is passed on unchanged.
        failure: text of the error if the parser fails, as a clause. The parser's own message is not shown, since it
            may quote the content.
        fix: what the user can do.

    Raises:
        ImageError: the parser failed. The error has no cause and no context, since they may hold the content.
        ImageLimitError: there was not enough memory, or the parser has a limit of its own.
    """
    refused: ImageError
    with _quiet_parsers:
        try:
            return step()
        except LrclrError:
            raise
        except (MemoryError, Image.DecompressionBombError):
            refused = ImageLimitError(failure, why="it needs more memory than is available, or than the decoder allows")
        except Exception:  # noqa: BLE001 - on bad content a parser raises nearly anything: KeyError, struct.error...
            refused = ImageError(failure, fix=fix)
        except BaseException as error:
            # Decoders written in Rust raise PanicException on bad content. It does not derive from Exception.
            if type(error).__name__ != "PanicException":
                raise
            refused = ImageError(failure, fix=fix)
    # Raised outside the handler, so that the parser's exception does not become its context.
    raise refused
