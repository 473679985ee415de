"""Options and steps of commands that work with a PACS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli import _dicom_results
from lrclr.cli._console import note
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from lrclr.archive import ScoreOptions, Source
    from lrclr.dicom_results import Kind
    from lrclr.pacs import Destination, DicomwebOptions, ScoredResults, ScoredSummary

Store = Annotated[
    str | None,
    typer.Option(
        "--store", help="Send results to a DICOMweb URL or AE@HOST:PORT: structured reports and heat maps, or --kinds."
    ),
]
Kinds = Annotated[
    str | None,
    typer.Option("--kinds", help="Kinds of results for --store, of sr, sc and gsps.  [default: sr,sc]"),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the token for DICOMweb; else LRCLR_DICOMWEB_TOKEN is used if set."),
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="PEM certificates of the authorities to trust for DICOMweb.")
]
AeTitle = Annotated[str, typer.Option("--ae-title", help="Our own AE title, for --store AE@HOST:PORT.")]
AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Allow DICOMweb without encryption over a network.")]


def is_empty(source: str | Source) -> bool:
    """Whether a search found nothing, which may be so on a quiet day."""
    return not isinstance(source, str) and not source.items


@dataclass(frozen=True)
class Pacs:
    """What a call gave of these options.

    Attributes:
        folders: the folder for each kind of result.
        store: where results shall be sent.
        kinds_to_store: the kinds for `store`, separated by commas; None for reports and heat maps.
        token_file, ca_file, allow_http, attempts: see `lrclr.pacs.DicomwebOptions`.
        ae_title: our own title, for `store`.
    """

    folders: dict[Kind, Path]
    store: str | None = None
    kinds_to_store: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    allow_http: bool = False
    attempts: int = 6
    ae_title: str = "LRCLR"

    def __post_init__(self) -> None:
        if self.kinds_to_store is not None and self.store is None:
            raise UsageError("--kinds needs --store", fix="Folders are chosen by --sr, --sc and --gsps.")

    @property
    def wants_results(self) -> bool:
        """Whether DICOM results shall be made."""
        return bool(self.folders or self.store)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is made for each image."""
        return tuple(dict.fromkeys([*(self._stored if self.store else ()), *self.folders]))

    @property
    def _stored(self) -> tuple[Kind, ...]:
        from lrclr.dicom_results import KINDS
        from lrclr.pacs import SENT_KINDS

        if self.kinds_to_store is None:
            return SENT_KINDS
        names = [name.strip().lower() for name in self.kinds_to_store.split(",")]
        found = tuple(kind for kind in KINDS if kind in names)
        if len(found) != len(names):
            raise UsageError(f"--kinds cannot be {self.kinds_to_store!r}", fix=f"Choose of {', '.join(KINDS)}.")
        return found

    @property
    def web(self) -> DicomwebOptions:
        """How DICOMweb servers are reached."""
        from lrclr.pacs import DicomwebOptions

        return DicomwebOptions(self.token_file, self.ca_file, self.allow_http, self.attempts)

    def check(self) -> None:
        """Raise MissingExtraError or UsageError before a command begins its work."""
        if self.wants_results:
            from lrclr.cli._extras import require

            require("dicom-results")
            self.destinations()

    def source(self, source: str, query: list[str]) -> str | Source:
        """What shall be scored: a DICOMweb URL is searched, anything else is left to `lrclr.archive.open_source`.

        Raises:
            UsageError: the URL or the query cannot be used.
            ServerError: the server refuses, or did not answer.
        """
        if not source.lower().startswith(("http://", "https://")):
            if found := re.match(r"([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE):
                # The text is not shown: it may hold a password.
                raise UsageError(f"{found[1]}:// is not supported", fix="Give https://HOST/dicom-web as the source.")
            if query:
                raise UsageError("--query belongs to a DICOMweb URL", fix="Give https://HOST/dicom-web as the source.")
            return source
        from lrclr.cli._extras import require
        from lrclr.pacs import DicomwebClient, Query, find_web_images

        require("pacs")
        return find_web_images(DicomwebClient(source, self.web), Query.parse(query))

    def destinations(self) -> dict[str, Destination]:
        """Where results go, by a name that a later run recognises. Folders are made."""
        from lrclr.dicom_results import ResultFolders
        from lrclr.pacs import SENT_KINDS, FolderDestination, destination_of

        found: dict[str, Destination] = {}
        if self.store:
            kinds = self._stored
            name = self.store if kinds == SENT_KINDS else f"{self.store} {','.join(kinds)}"
            found[name] = destination_of(self.store, options=self.web, calling=self.ae_title, kinds=kinds)
        ResultFolders.make(self.folders)
        for kind, folder in self.folders.items():
            found[f"{kind}:{folder.absolute()}"] = FolderDestination({kind: folder})
        return found

    def results(self, source: str | Source, scores: Path, options: ScoreOptions) -> ScoredResults | None:
        """What makes the DICOM results of a folder of scores; None if none were asked for."""
        if not self.wants_results:
            return None
        from lrclr.archive import Source, open_source
        from lrclr.pacs import ScoredResults

        findings = options.findings or options.opened().findings
        images = source if isinstance(source, Source) else open_source(source, findings=findings.names)
        return ScoredResults(images, scores, options, self.kinds, self.destinations())

    def finish(self, results: ScoredResults | None) -> ScoredSummary | None:
        """Make the DICOM results that are missing after scoring, and print how many there are."""
        if results is None:
            return None
        summary = results.run()
        note(f"DICOM results: {summary.made} images now, {summary.kept} before")
        for reasons, what in ((summary.refused, "no results"), (summary.failed, "results are missing for now")):
            for reason, count in reasons.most_common(5):
                note(f"{what}: {count} × {reason}")
        _dicom_results.tell_remarks(summary.remarks)
        _dicom_results.tell_folders(self.folders)
        return summary

    @staticmethod
    def check_results(summary: ScoredSummary | None) -> None:
        """Raise if results are missing: the call was wrong if none of their images is a DICOM file."""
        if summary is None or not (summary.refused or summary.failed):
            return
        number = sum(summary.refused.values()) + sum(summary.failed.values())
        wrong = summary.only_other_formats and not summary.failed
        fix = "Run again to send what is missing." if summary.failed else None
        kind = UsageError if wrong else LrclrError
        raise kind(f"DICOM results of {number} images are missing", why="see above", fix=fix)
