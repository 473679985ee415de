"""The errors that this package raises, and their exit codes on the command line.

::

    LrclrError                 1  the work failed
    ├── UsageError             2  the call was wrong: an option, an argument, or a file that the user wrote
    │   ├── FindingsError      2  a findings file or a prompt cannot be used
    │   ├── MissingExtraError  2  an optional dependency that this call needs is not installed
    │   └── NotSupportedError  2  the model cannot do what was asked
    ├── ImageError             1  an image cannot be read, or is not a radiograph
    │   └── ImageLimitError    1  an image is larger than the limits allow
    ├── CheckpointError        1  a checkpoint cannot be read, or is not supported
    ├── BundleError            1  a bundle is damaged, incomplete, or of another version
    ├── EngineError            1  an engine is not available, or cannot run a graph
    │   └── NonFiniteError     1  a computation gave NaN or infinity
    ├── ExportError            1  a graph could not be exported
    ├── HubError               1  the Hugging Face Hub refused, or cannot be reached
    ├── ServerError            1  a server cannot be started, or answered with an error
    │   └── ServerUnavailableError  1  a server did not answer; a retry may succeed
    ├── GateError              3  a gate refused a bundle
    ├── DriftError             3  current images differ from the reference
    └── TuningError            3  no configuration of a server answers within the limit

An error says what happened, why, and what to do, in one line. It never holds pixels, names or DICOM values.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Self

__all__ = [
    "BundleError",
    "CheckpointError",
    "DriftError",
    "EngineError",
    "ExportError",
    "FindingsError",
    "GateError",
    "HubError",
    "ImageError",
    "ImageLimitError",
    "LrclrError",
    "MissingExtraError",
    "NonFiniteError",
    "NotSupportedError",
    "ServerError",
    "ServerUnavailableError",
    "TuningError",
    "UsageError",
]


# PyPI's torch brings 5 GB of CUDA libraries.
CPU_TORCH: Final = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


_OF_TORCH: Final = frozenset({"safetensors", "torch", "transformers"})


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class LrclrError(Exception):
    """Base class of all errors.

    Args:
        what: what happened, as a clause without a full stop.
        why: the cause, if it is known.
        fix: what the user can do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str | None = None, fix: str | None = None) -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(what)

    @classmethod
    def from_text(cls, what: str, *, why: str | None = None, fix: str | None = None) -> Self:
        """An error of this class with the text from another process, such as a server."""
        error = cls.__new__(cls)
        LrclrError.__init__(error, what, why=why, fix=fix)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses have other parameters and cannot be constructed from the text.
        return _restored, (type(self), self.what, self.why, self.fix), self.__dict__

    def __str__(self) -> str:
        line = self.what if self.why is None else f"{self.what}: {self.why}"
        if self.fix is not None:
            # The reason may be a sentence of a library's.
            line = f"{line.rstrip('.')}. {self.fix}"
        return " ".join(line.split())


def _restored(kind: type[LrclrError], what: str, why: str | None, fix: str | None) -> LrclrError:
    return kind.from_text(what, why=why, fix=fix)


class UsageError(LrclrError):
    """The call was wrong."""

    exit_code = 2


class FindingsError(UsageError):
    """A findings file or a prompt cannot be used."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed.

    Args:
        package: name of the missing package.
        extra: extra of lrclr that installs it.
        purpose: what needs it, such as ``"exporting a checkpoint"``.
        or_else: another way to install it.
    """

    def __init__(self, package: str, extra: str, purpose: str, *, or_else: str | None = None) -> None:
        # lrclr is not on PyPI: `pip install 'lrclr[...]'` finds nothing.
        fix = f"In the folder of lrclr's source, run: pip install '.[{extra}]'"
        fix += "" if or_else is None else f", or {or_else}"
        if package == "torch":
            fix += f". On a machine without a GPU, first run: {CPU_TORCH}"
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed", fix=fix)


@contextmanager
def needing_torch(purpose: str) -> Iterator[None]:
    """Raise MissingExtraError if a package of the extra ``torch`` is missing for an import in the block."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OF_TORCH:
            raise
        raise MissingExtraError(package, "torch", purpose) from None


def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def require_packages(extra: str, packages: tuple[str, ...], purpose: str) -> None:
    """Raise MissingExtraError if a package is missing. `extra` installs all of them."""
    for package in packages:
        if not is_installed(package):
            raise MissingExtraError(package, extra, purpose)


class NotSupportedError(UsageError):
    """The model cannot do what was asked, whatever the other arguments are."""


class ImageError(LrclrError):
    """An image cannot be read."""


class ImageLimitError(ImageError):
    """An image is larger than the limits allow."""


class CheckpointError(LrclrError):
    """A checkpoint cannot be read."""


class BundleError(LrclrError):
    """A bundle is damaged, incomplete, or of another version."""


class EngineError(LrclrError):
    """An engine is not available, or cannot run a graph."""


class NonFiniteError(EngineError):
    """A computation gave NaN or infinity."""


class ExportError(LrclrError):
    """A graph could not be exported."""


class HubError(LrclrError):
    """The Hugging Face Hub refused, or cannot be reached."""


class ServerError(LrclrError):
    """A server cannot be started, or answered with an error."""


class ServerUnavailableError(ServerError):
    """A server did not answer; a retry may succeed.

    Attributes:
        retry_after: seconds to wait before the next attempt, if the server refused because it is busy; else None.
    """

    retry_after: float | None = None


class GateError(LrclrError):
    """A gate refused a bundle."""

    exit_code = 3


class DriftError(LrclrError):
    """Scores, warnings or embeddings of current images differ from those of reference images."""

    exit_code = 3


class TuningError(LrclrError):
    """No configuration of a server answers within the limit of the latency."""

    exit_code = 3
