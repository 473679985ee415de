"""Where results go: folders, a DICOMweb server, or an application entity (C-STORE)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Protocol

from lrclr._addresses import Address
from lrclr._files import write_whole
from lrclr.dicom_results import KINDS, RESULT_SUFFIXES, Kind
from lrclr.errors import LrclrError, MissingExtraError, ServerError, ServerUnavailableError, UsageError
from lrclr.pacs._reachability import Reachability
from lrclr.pacs._web import DicomwebClient, DicomwebOptions

SENT_KINDS: Final[tuple[Kind, ...]] = ("sr", "sc")
"""Kinds of results that are sent if no others are asked for."""
_NETWORK_SECONDS: Final = 60
_DUPLICATE: Final = 0x0111
_UNCOMPRESSED: Final = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]  # Explicit and Implicit VR Little Endian


class Destination(Protocol):
    """Takes results. To send the same results again does no harm: they have the same UIDs."""

    def store(self, results: Mapping[Kind, tuple[str, bytes]]) -> None:
        """Take the results of one image.

        Args:
            results: SOP instance UID and DICOM file, by kind.

        Raises:
            LrclrError: some of them were not taken.
        """
        ...


@dataclass(frozen=True)
class FolderDestination:
    """Folders, one for each kind; results of other kinds are not for them.

    Attributes:
        folders: by kind. They exist.
    """

    folders: Mapping[Kind, Path]

    def path(self, kind: Kind, uid: str) -> Path:
        """The file of a result."""
        return self.folders[kind] / f"{uid}{RESULT_SUFFIXES[kind]}"

    def store(self, results: Mapping[Kind, tuple[str, bytes]]) -> None:
        """As `Destination.store`."""
        for kind in self.folders:
            if kind in results:
                uid, content = results[kind]
                write_whole(self.path(kind, uid), content)


@dataclass(frozen=True)
class WebDestination:
    """A DICOMweb server (STOW-RS).

    Attributes:
        client: of the server.
        kinds: results of other kinds are not for it.
    """

    client: DicomwebClient
    kinds: tuple[Kind, ...] = KINDS

    def store(self, results: Mapping[Kind, tuple[str, bytes]]) -> None:
        """As `Destination.store`."""
        self.client.store([results[kind][1] for kind in self.kinds if kind in results])


@dataclass(frozen=True)
class DimseDestination:
    """An application entity that takes C-STORE. The connection is not encrypted.

    Attributes:
        ae_title: of the receiver.
        address: where it listens.
        calling: our own title.
        kinds: results of other kinds are not for it.
    """

    ae_title: str
    address: Address
    calling: str = "LRCLR"
    kinds: tuple[Kind, ...] = KINDS
    _reachability: Reachability = field(default_factory=Reachability, init=False, repr=False, compare=False)

    def store(self, results: Mapping[Kind, tuple[str, bytes]]) -> None:
        """As `Destination.store`."""
        try:
            from pynetdicom import AE
        except ImportError:
            raise MissingExtraError("pynetdicom", "pacs", "sending by C-STORE") from None
        from pydicom import dcmread

        entity = AE(self.calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _NETWORK_SECONDS
        entity.connection_timeout = 10
        objects = [dcmread(BytesIO(results[kind][1])) for kind in self.kinds if kind in results]
        for each in objects:
            syntax = each.file_meta.TransferSyntaxUID
            entity.add_requested_context(each.SOPClassUID, syntax)
            if syntax.is_compressed:
                entity.add_requested_context(each.SOPClassUID, _UNCOMPRESSED)
        place = f"{self.ae_title}@{self.address}"
        self._reachability.check(place)
        try:
            association = entity.associate(self.address.host, self.address.port, ae_title=self.ae_title)
        except OSError as error:  # the name cannot be resolved
            self._reachability.note(succeeded=False, answered=False)
            raise ServerUnavailableError(f"{place} cannot be reached", why=error.strerror) from None
        self._reachability.note(
            succeeded=association.is_established,
            answered=association.is_rejected or association.acceptor.primitive is not None,
        )
        if not association.is_established:
            why = "it does not answer"
            if association.is_rejected:
                why = f"it rejects a connection from the AE title {self.calling} to {self.ae_title}"
            elif association.acceptor.primitive is not None:
                # It answered, with no presentation context in common.
                why = "it does not accept them"
            raise ServerUnavailableError(f"{place} takes no results", why=why)
        failures = []
        try:
            for each in objects:
                try:
                    self._send(association, each, place)
                except LrclrError as error:
                    # The other objects are sent nevertheless.
                    failures.append(error)
        finally:
            association.release()
        if failures:
            raise failures[0]

    @staticmethod
    def _send(association: Any, dataset: Any, place: str) -> None:
        """Send an object, uncompressed if the receiver does not accept it as it is."""
        accepted = {
            context.transfer_syntax[0]
            for context in association.accepted_contexts
            if context.abstract_syntax == dataset.SOPClassUID
        }
        if not accepted and association.is_established:
            raise ServerError(
                f"{place} did not take a result",
                why=f"it accepts no {dataset.SOPClassUID.name} as it is, nor uncompressed",
            )
        if dataset.file_meta.TransferSyntaxUID not in accepted:
            dataset.decompress(generate_instance_uid=False)
        try:
            answer = association.send_c_store(dataset)
        except (ValueError, RuntimeError):
            # The association ended.
            answer = {}
        _check_status(place, int(answer.Status) if "Status" in answer else None)


def _check_status(place: str, status: int | None) -> None:
    if status is None:
        raise ServerUnavailableError(f"{place} did not take the results", why="it did not answer")
    # Bxxx: stored with a warning (PS3.4, table B.2-1).
    if status not in {0, _DUPLICATE} and status >> 12 != 0xB:
        kind = ServerUnavailableError if status >> 8 == 0xA7 else ServerError
        raise kind(f"{place} did not take the results", why=f"its status is {status:#06x}")


def destination_of(
    text: str, *, options: DicomwebOptions | None = None, calling: str = "LRCLR", kinds: tuple[Kind, ...] = SENT_KINDS
) -> Destination:
    """Read ``https://HOST/dicom-web`` or ``AE@HOST:PORT``.

    Args:
        text: the destination.
        options: how a DICOMweb server is reached.
        calling: our own AE title.
        kinds: the kinds of results to send.

    Raises:
        UsageError: the text is something else.
    """
    if text.lower().startswith(("http://", "https://")):
        return WebDestination(DicomwebClient(text, options), kinds)
    title, at, place = text.rpartition("@")
    if not at:
        raise UsageError(
            "--store names no place to send results to", fix="Give https://HOST/dicom-web, or AE@HOST:PORT."
        )
    try:
        address = Address.parse(place)
    except UsageError as error:
        fix = "Give AE@HOST:PORT, for example ORTHANC@127.0.0.1:4242."
        raise UsageError(f"--store: {error.what}", why=error.why, fix=fix) from None
    return DimseDestination(checked_ae_title(title), address, checked_ae_title(calling), kinds)


def checked_ae_title(title: str) -> str:
    """An application entity's title: 1 to 16 characters (PS3.5, section 6.2).

    Raises:
        UsageError: it is something else.
    """
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", title) or not title.strip():
        raise UsageError(f"{title!r} is not an AE title", why="a title has 1 to 16 characters of ASCII, no backslash")
    return title.strip()
