"""DICOM results for the rows of a folder of scores, made once each, however often the run is stopped.

An image that this process scores gets its results at once, from the content that was fetched to score it. What is
missing afterwards is made from the rows, for which an image is read again: its results were not taken, its row is from
a run before, or a Ray cluster scored it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr._processors import processors
from lrclr.archive import Item
from lrclr.budget import reading
from lrclr.dicom_results import DicomSource, NotDicomError, ResultBuilder, ResultModel, ResultRefusedError
from lrclr.errors import LrclrError
from lrclr.images import ReadLimits, read_image
from lrclr.images._source import read_bytes
from lrclr.inference import Answers, ModelSpec
from lrclr.pacs._destination import FolderDestination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lrclr.archive import ScoredImage, ScoreOptions, Source
    from lrclr.dicom_results import Kind
    from lrclr.inference import Prediction
    from lrclr.pacs._destination import Destination

LEDGER: Final = "_results.sqlite"
_COLUMNS: Final = ("file", "frame", "status", "height", "width", "warnings", "findings")
# Images whose results are under way.
_AHEAD: Final = 4
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS results (file TEXT, frame INTEGER, destination TEXT, model TEXT, uids TEXT,"
    " refused TEXT, PRIMARY KEY (file, frame, destination, model))"
)
_NO_FRAME: Final = -1
_LOCK_SECONDS: Final = 60.0


@dataclass
class ScoredSummary:
    """What a run did.

    Attributes:
        made: images that got their results now.
        kept: images that have them from a run before.
        refused: reasons for which images have none, and how often, old ones and new.
        failed: reasons for which results were not taken or an image could not be read again; the next run tries again.
        remarks: what was left out of the results that were made now, and of how many images; see `DicomSource.remarks`.
        only_other_formats: whether all that were refused are not DICOM files.
    """

    made: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    only_other_formats: bool = True


@dataclass(frozen=True)
class _Row:
    item: Item
    prediction: Prediction


@dataclass(frozen=True)
class _Outcome:
    """Results of an image.

    Attributes:
        uids: UIDs of the results, by kind.
        taken: names of the destinations that took them.
        error: why there are none, or why a destination did not take them.
        remarks: what was left out of them.
    """

    uids: dict[Kind, str] = field(default_factory=dict)
    taken: tuple[str, ...] = ()
    error: LrclrError | None = None
    remarks: tuple[str, ...] = ()


class ScoredResults:
    """Makes results for the rows of a folder of scores, and hands them to destinations.

    What was taken is kept in a file in the folder of scores.

    Args:
        source: the images that were scored.
        scores: the folder.
        options: with which they were scored.
        kinds: what is made for each image.
        destinations: by a name that tells them apart.

    Attributes:
        source: as given.
    """

    def __init__(
        self,
        source: Source,
        scores: Path,
        options: ScoreOptions,
        kinds: Sequence[Kind],
        destinations: dict[str, Destination],
    ) -> None:
        self.source, self._scores, self._frame = source, scores, options.frame
        self._kinds, self._destinations = tuple(kinds), destinations
        spec = ModelSpec.of_bundle(options.opened())
        self._spec = spec
        self._alpha = spec.alpha if options.alpha is None else options.alpha
        model = ResultModel(spec.sha256, options.findings or spec.findings, options.exact)
        self._builder = ResultBuilder(model)
        self._model = f"{model.key} {self._alpha:.6g}"
        self._names = model.findings.names
        self._summary, self._settled, self._mutex = ScoredSummary(), set[Item](), threading.Lock()

    def take(self, image: ScoredImage) -> None:
        """Make the results of an image that was scored now. Safe to call from several threads.

        A failure is left to `run`, which tries again.

        Raises:
            LrclrError: the folder of scores cannot be written.
        """
        arrays = {name: getattr(image.scores, name)[None] for name in Answers.names()}
        row = _Row(image.item, self._prediction(Answers(**arrays), image.shape, image.warnings))
        with self._ledger() as ledger:
            missing, _ = self._missing(ledger, row)
            if missing:
                # Rows of a Parquet file are refused, as `run` does.
                outcome = self._make(row, missing, None if self.source.container else image.content)
                if outcome.error is None or isinstance(outcome.error, ResultRefusedError):
                    self._settle(ledger, row, missing, outcome)
                    self._settled.add(row.item)
                else:
                    self._note(ledger, row, outcome.taken, outcome.uids)

    def run(self, on_progress: Callable[[ScoredSummary], None] | None = None) -> ScoredSummary:
        """Make what is missing, for every image of the source that has scores.

        Returns:
            What this did, with what `take` did before.

        Raises:
            LrclrError: the folder of scores cannot be read or written.
        """
        summary = self._summary
        with self._ledger() as ledger, self._pool() as pool:
            pending: list[tuple[_Row, list[str]]] = []
            for row in self._rows():
                missing, refused = self._missing(ledger, row)
                if missing:
                    pending.append((row, missing))
                elif row.item in self._settled:
                    # `take` has counted it.
                    continue
                elif refused is None:
                    summary.kept += 1
                else:
                    _count_refusal(summary, refused)
                if len(pending) == _AHEAD * processors():
                    self._work(pool, ledger, pending, on_progress)
                    pending = []
            self._work(pool, ledger, pending, on_progress)
        return summary

    @contextmanager
    def _ledger(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._scores / LEDGER, timeout=_LOCK_SECONDS)) as ledger:
                ledger.execute(_TABLE)
                yield ledger
        except sqlite3.Error as error:
            raise LrclrError(f"{self._scores / LEDGER} cannot be used", why=type(error).__name__) from error

    @staticmethod
    def _pool() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(processors(), thread_name_prefix="lrclr-results")

    def _rows(self) -> Iterator[_Row]:
        import pyarrow.parquet as pq

        items = frozenset(self.source.items)
        columns = [*_COLUMNS, *Answers.names()]
        for part in sorted(self._scores.glob("part-*.parquet")):
            for row in pq.read_table(part, columns=columns, partitioning=None).to_pylist():
                item = Item(row["file"], row["frame"])
                if row["status"] == "scored" and item in items and tuple(row["findings"]) == self._names:
                    arrays: dict[str, Any] = {
                        name: np.array([row[name]], np.int64 if name == "region_index" else np.float32)
                        for name in Answers.names()
                    }
                    shape = (row["height"], row["width"])
                    yield _Row(item, self._prediction(Answers(**arrays), shape, row["warnings"]))

    def _prediction(self, answers: Answers, size: tuple[int, int], warnings: Sequence[str]) -> Prediction:
        geometry = self._spec.preprocess.geometry(*size)
        boxes = [[geometry.box(patch, self._spec.patch_size) for patch in answers.region_index[0].tolist()]]
        (prediction,) = answers.predictions(
            self._names, [size], boxes, alpha=self._alpha, fusion_trained=self._spec.fusion_trained
        )
        return replace(prediction, warnings=tuple(warnings))

    def _missing(self, ledger: sqlite3.Connection, row: _Row) -> tuple[list[str], str | None]:
        """Destinations that lack the results of a row, and why it has none."""
        rows = ledger.execute(
            "SELECT destination, uids, refused FROM results WHERE file = ? AND frame = ? AND model = ?",
            (*_key(row.item), self._model),
        )
        taken, refused = set(), None
        for name, uids, reason in rows:
            there = self._destinations.get(name)
            if reason is not None:
                refused = reason
                taken.add(name)
            elif not isinstance(there, FolderDestination) or _are_there(there, uids):
                taken.add(name)
        return [name for name in self._destinations if name not in taken], refused

    def _work(
        self,
        pool: ThreadPoolExecutor,
        ledger: sqlite3.Connection,
        pending: Sequence[tuple[_Row, list[str]]],
        on_progress: Callable[[ScoredSummary], None] | None,
    ) -> None:
        for (row, missing), outcome in zip(pending, pool.map(lambda each: self._make(*each), pending), strict=True):
            self._settle(ledger, row, missing, outcome)
            if on_progress is not None:
                on_progress(self._summary)

    def _settle(self, ledger: sqlite3.Connection, row: _Row, missing: Sequence[str], outcome: _Outcome) -> None:
        """Count an outcome, and note it unless another run shall try again."""
        with self._mutex:
            if isinstance(outcome.error, ResultRefusedError):
                reason = _refusal_text(outcome.error)
                _count_refusal(self._summary, reason)
                self._note(ledger, row, missing, {}, reason)
                return
            if outcome.error is None:
                self._summary.made += 1
                self._summary.remarks.update(outcome.remarks)
            else:
                self._summary.failed[outcome.error.why or outcome.error.what] += 1
            self._note(ledger, row, outcome.taken, outcome.uids)

    def _note(
        self,
        ledger: sqlite3.Connection,
        row: _Row,
        names: Sequence[str],
        uids: Mapping[Kind, str],
        refused: str | None = None,
    ) -> None:
        text = " ".join(f"{kind}:{uid}" for kind, uid in uids.items())
        with ledger:
            ledger.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)",
                [(*_key(row.item), name, self._model, text, refused) for name in names],
            )

    @reading()
    def _make(self, row: _Row, missing: Sequence[str], content: bytes | None = None) -> _Outcome:
        """Make the results of a row, and hand them to the destinations that lack them.

        Args:
            row: the image and its prediction.
            missing: names of destinations.
            content: the encoded image, if it was read already.
        """
        frame = self._frame if row.item.frame is None else row.item.frame
        try:
            data = self._content(row.item) if content is None else content
            source = DicomSource.read(data, frame=frame)
            picture = read_image(data, frame=frame) if "sc" in self._kinds else None
            results = {
                kind: (
                    self._builder.uid(kind, source, self._alpha),
                    self._builder.build(kind, source, row.prediction, picture),
                )
                for kind in self._kinds
            }
        except LrclrError as error:
            return _Outcome(error=error)
        taken, failures = [], []
        for name in missing:
            try:
                self._destinations[name].store(results)
                taken.append(name)
            except LrclrError as error:
                # The others get the results nevertheless.
                failures.append(error)
        uids = {kind: uid for kind, (uid, _) in results.items()}
        return _Outcome(uids, tuple(taken), failures[0] if failures else None, source.remarks)

    def _content(self, item: Item) -> bytes:
        if self.source.remote is not None:
            return self.source.remote.read(item.name)
        if self.source.container is not None:
            raise ResultRefusedError(
                "there is no DICOM result for this image", why="it is a row of a Parquet file, and not a DICOM file"
            )
        return read_bytes(self.source.path(item), ReadLimits())


def _key(item: Item) -> tuple[str, int]:
    # NULLs differ from each other in a key.
    return item.name, _NO_FRAME if item.frame is None else item.frame


def _are_there(folder: FolderDestination, uids: str) -> bool:
    known = dict(each.split(":") for each in uids.split())
    return all(kind in known and folder.path(kind, known[kind]).is_file() for kind in folder.folders)


_OTHER_FORMAT: Final = "not DICOM: "


def _refusal_text(error: ResultRefusedError) -> str:
    prefix = _OTHER_FORMAT if isinstance(error, NotDicomError) else ""
    return prefix + (error.why or error.what)


def _count_refusal(summary: ScoredSummary, reason: str) -> None:
    summary.only_other_formats &= reason.startswith(_OTHER_FORMAT)
    summary.refused[reason.removeprefix(_OTHER_FORMAT)] += 1
