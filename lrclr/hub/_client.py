"""huggingface_hub: its import, its client, and its errors as those of lrclr."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from lrclr._version import __version__
from lrclr.errors import HubError, LrclrError, MissingExtraError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from lrclr.hub._reference import HubReference

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_AGAIN: Final = "Run it again."
_LOG_IN: Final = "log in with `hf auth login`, or set HF_TOKEN"


def hub_library() -> ModuleType:
    """The package huggingface_hub.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", "a repository of the Hugging Face Hub") from None
    return huggingface_hub


def client() -> Any:
    """The hub's client, with the user's own token and endpoint."""
    return hub_library().HfApi(library_name="lrclr", library_version=__version__)


@contextlib.contextmanager
def hub_answers() -> Iterator[None]:
    """Raise HubError for an answer that a hub does not give, such as the page of a proxy to log in.

    The block only calls huggingface_hub, which does not check what it is given.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_a_hub() from error


def model_info(reference: HubReference, **options: Any) -> Any:
    """What the hub says of a repository: its commit and its files.

    Args:
        reference: the repository and the revision.
        options: options of `huggingface_hub.HfApi.model_info`.

    Raises:
        HubError: the answer is not that of a hub.
        Exception: huggingface_hub's error, which `hub_errors` translates.
    """
    api = client()
    from huggingface_hub import constants

    with hub_answers():
        # Without a timeout, it waits without end for a hub that does not answer.
        return api.model_info(
            reference.repository, revision=reference.revision, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, **options
        )


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    hub_library()
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def hub_errors(reference: HubReference, *, writing: bool = False) -> Iterator[None]:
    """Raise lrclr's errors instead of those of huggingface_hub, and show its progress on a terminal only.

    Args:
        reference: the repository.
        writing: whether the block uploads.

    Raises:
        UsageError: the hub does not accept the name.
        HubError: the hub refused or cannot be reached, or the disk is full.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub_library()
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    except LrclrError:
        raise
    except Exception as error:
        # An error in a thread that uploads is the cause of another one.
        cause = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
        known = _of_repository(cause, reference) or _of_transfer(cause, reference, writing=writing)
        if known is None:
            raise
        raise known from error
    finally:
        if quiet:
            enable_progress_bars()


def _of_repository(error: Exception, reference: HubReference) -> LrclrError | None:
    """The error for a repository or a revision that is not there, or not for this account."""
    from huggingface_hub import errors

    name = reference.repository
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"the hub has no repository of the name {name!r}", why=first_line(error))
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{reference} is gated",
            why="only accounts that accepted its terms may read it; this one did not, or there is no token",
            fix=f"Accept the terms at {_endpoint()}/{name}, and {_LOG_IN}.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"there is no repository {name!r} on the hub, or this account cannot see it",
            fix=f"Check the name. For a private one, {_LOG_IN}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(
            f"{name} has no revision {reference.revision or 'main'!r}",
            fix="Give a branch, a tag or the hash of a commit.",
        )
    return None


def _of_transfer(error: Exception, reference: HubReference, *, writing: bool) -> LrclrError | None:
    """The error for what went wrong on the way."""
    from huggingface_hub import errors

    # The base class of all errors of the HTTP library, which differs between versions of huggingface_hub.
    transport = errors.HfHubHTTPError.__bases__[0]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"{reference} cannot be reached", why="HF_HUB_OFFLINE is set", fix="Unset it.")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_there(error, reference)
    if isinstance(error, errors.HfHubHTTPError):
        return _of_status(error.response.status_code, reference, writing=writing)
    if isinstance(error, errors.FileMetadataError):
        return _not_a_hub()
    if isinstance(error, transport):
        return HubError(
            f"{_endpoint() or 'the hub without an address, of an empty HF_ENDPOINT,'} cannot be reached",
            why=first_line(error),
            fix="Check the network, the proxy and HF_ENDPOINT. HF_HUB_OFFLINE=1 uses what was downloaded before.",
        )
    return _of_files(error, reference) if isinstance(error, OSError) else None


def _not_a_hub() -> HubError:
    return HubError(
        f"the answer of {_endpoint()} is not that of a hub", fix="Check HF_ENDPOINT, the proxy and the firewall."
    )


def _of_status(status: int, reference: HubReference, *, writing: bool) -> LrclrError:
    if status in {401, 403}:
        return HubError(
            f"the hub does not let this account {'write to' if writing else 'read'} {reference.repository}",
            why=f"it answered {status}",
            fix=f"Check the rights of the token; {_LOG_IN}.",
        )
    return HubError(f"the hub answered {status} for {reference}", fix="Run it again later.")


def _not_there(error: Exception, reference: HubReference) -> LrclrError:
    """The error for files that could not be downloaded and are not in the cache."""
    cause = error.__cause__
    if cause is None or is_offline():
        return HubError(
            f"{reference} is not in the cache of huggingface_hub",
            why="HF_HUB_OFFLINE is set, and it was not downloaded before, or not completely",
            fix="Unset HF_HUB_OFFLINE.",
        )
    known = _of_repository(cause, reference) if isinstance(cause, Exception) else None
    if known is None and isinstance(cause, Exception):
        known = _of_transfer(cause, reference, writing=False)
    return known or HubError(f"{reference} was not downloaded", why=first_line(cause), fix=_AGAIN)


def _of_files(error: OSError, reference: HubReference) -> LrclrError:
    from huggingface_hub import constants

    if error.errno is None and "Consistency check" in str(error):
        return HubError(
            f"a file of {reference} was not downloaded whole",
            why="its size is not the one that the hub gives",
            fix=_AGAIN,
        )
    return HubError(
        f"the cache of huggingface_hub, {constants.HF_HUB_CACHE}, cannot be written",
        why=os.strerror(error.errno) if error.errno else first_line(error),
        fix="Make room, or set HF_HOME to another disk." if error.errno in _FULL else None,
    )


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
