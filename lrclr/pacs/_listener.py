"""A receiver of images (C-STORE) that scores them in batches and sends their results on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from lrclr._addresses import Address, check_port, ip_address
from lrclr.dicom_results import DicomSource, ResultBuilder, ResultModel, ResultRefusedError
from lrclr.errors import LrclrError, MissingExtraError, NonFiniteError, ServerUnavailableError, UsageError
from lrclr.images import ReadLimits, read_image
from lrclr.images._dicom_decode import can_decode_12_bit_jpeg
from lrclr.images._dicom_frame import JPEG_EXTENDED
from lrclr.inference import FileResult, check_alpha, predict_files
from lrclr.pacs._connections import Connections
from lrclr.pacs._destination import checked_ae_title
from lrclr.pacs._remote import IMAGE_CLASSES
from lrclr.pacs._spool import Spool, SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lrclr.dicom_results import Kind
    from lrclr.inference import Prediction, ZeroShotClassifier
    from lrclr.pacs._destination import Destination
    from lrclr.text import FindingSet

# PS3.4, table B.2-1, and PS3.7, annex C.
_SUCCESS: Final = 0x0000
_OUT_OF_RESOURCES: Final = 0xA700
_CANNOT_UNDERSTAND: Final = 0xC000
_VERIFICATION: Final = "1.2.840.10008.1.1"
_IDLE_SECONDS: Final = 0.2
_LONGEST_PAUSE: Final = 300.0
_STOP_SECONDS: Final = 8.0  # for a request to an archive that does not answer; supervisors often kill after ten
# Connections without a request for an association count, until they are closed for their silence.
_ASSOCIATIONS: Final = 100


@dataclass(frozen=True)
class ListenOptions:
    """How images are received.

    Attributes:
        host: address to listen on.
        port: 0 for any that is free.
        ae_title: of the receiver; a sender must call it by this title.
        accept: AE titles of the senders that may connect; empty for all of them, which only a receiver on a loopback
            address allows.
        spool_bytes: most bytes of instances and results in the spool. An instance above it is refused with the status
            "out of resources", upon which senders try again.
        batch_size: images that the image encoder sees at once.
        findings: what to ask for; the model's own if not given.
        alpha: weight of the local score, instead of the model's.
        exact: read files in full; see `lrclr.images.read_for_model`.
        refuse: codes of `lrclr.input_checks`. An image with such a warning is accepted, since its sender can do nothing
            about it, and is put aside without results.
        kinds: what is made for each image.
        first_pause: seconds until a destination that refused is asked again; it doubles with each refusal, up to five
            minutes.
        limits: on images.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    ae_title: str = "LRCLR"
    accept: tuple[str, ...] = ()
    spool_bytes: int = 10 << 30
    batch_size: int = 8
    findings: FindingSet | None = None
    alpha: float | None = None
    exact: bool = False
    refuse: frozenset[str] = frozenset()
    kinds: tuple[Kind, ...] = ("sr", "sc")
    first_pause: float = 1.0
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        for title in (self.ae_title, *self.accept):
            checked_ae_title(title)
        # 0.0.0.0 and :: stand for all interfaces here, and not for this machine alone.
        everywhere = getattr(ip_address(self.host), "is_unspecified", False)
        if not self.accept and (everywhere or not Address(self.host, 1).loopback):
            raise UsageError(
                f"every sender that reaches {self.host} could push images",
                fix="Name the senders with --accept AE, once for each.",
            )
        check_port(self.port)
        if self.batch_size < 1:
            raise UsageError("a batch needs at least one image")
        if self.spool_bytes < 1:
            raise UsageError("the spool needs at least one byte")
        if self.alpha is not None:
            check_alpha(self.alpha)


class Listener:
    """Receives, scores and sends on, in threads. A context manager: it listens inside.

    Every accepted instance gets its results once. Their UIDs follow from the instance: a destination that is sent
    them again, since a process was killed before it noted the first time, keeps one of the two.

    Args:
        classifier: what answers.
        spool: folder; see `lrclr.pacs.Spool`.
        destinations: where results go. Each gets all of them.
        options: how images are received.
        on_event: told of what goes wrong, in sentences that hold nothing of a patient.

    Attributes:
        port: on which it listens, inside the context.
    """

    def __init__(
        self,
        classifier: ZeroShotClassifier,
        spool: Path,
        destinations: Sequence[Destination],
        options: ListenOptions | None = None,
        *,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.options = options or ListenOptions()
        self.port = 0
        self._classifier, self._destinations, self._on_event = classifier, destinations, on_event
        self._findings = self.options.findings or classifier.spec.findings
        self._alpha = classifier.spec.checked_alpha(self.options.alpha)
        model = ResultModel(classifier.spec.sha256, self._findings, self.options.exact)
        self._builder = ResultBuilder(model)
        self._model = f"{model.key} {self._alpha:.6g}"
        self._spool_folder = spool
        self._connections = Connections(self.options.limits.max_bytes, on_event)
        self._stopped = threading.Event()
        self._arrived = threading.Event()
        self._made = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._ignored: set[str] = set()  # classes of objects that are not kept
        self._remarks: set[str] = set()  # remarks about results, each printed once
        self._taken: dict[str, set[int]] = {}  # destinations that have the results of an instance, by their numbers

    def __enter__(self) -> Self:
        try:
            import pynetdicom  # noqa: F401
        except ImportError:
            raise MissingExtraError("pynetdicom", "pacs", "receiving images") from None
        self.spool = Spool(self._spool_folder, self.options.spool_bytes, self._model)
        try:
            self._server = self._listen()
        except BaseException:
            self.spool.close()
            raise
        for work in (self._score, self._send):
            thread = threading.Thread(target=self._guarded, args=(work,), name="lrclr-listen", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._connections.close()
        self._stopped.set()
        self._arrived.set()
        self._made.set()
        # What is under way in a thread that does not end in time is done again after the next start.
        latest = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))
        self.spool.close()

    def check(self) -> None:
        """Raise what ended one of the threads, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _listen(self) -> Any:
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

        entity = AE(self.options.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.options.accept)
        entity.maximum_associations = _ASSOCIATIONS
        entity.add_supported_context(_VERIFICATION)
        # No installed decoder may read 12-bit lossy JPEG. A sender can convert what is not accepted.
        syntaxes = [each for each in ALL_TRANSFER_SYNTAXES if each != JPEG_EXTENDED or can_decode_12_bit_jpeg()]
        # Some senders send nothing of a study of which one object would not be accepted.
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, syntaxes)
        handlers = [
            (evt.EVT_CONN_OPEN, self._connections.opened),
            (evt.EVT_C_STORE, self._receive),
            (evt.EVT_C_ECHO, lambda _: _SUCCESS),
        ]
        place = (self.options.host, self.options.port)
        try:
            server = entity.start_server(place, block=False, evt_handlers=handlers)
        except OSError as error:
            raise LrclrError(f"{place[0]}:{place[1]} cannot be listened on", why=error.strerror) from error
        self.port = int(server.socket.getsockname()[1])
        return server

    def _receive(self, event: Any) -> int:
        """Status for one instance."""
        self._connections.completed(event)
        sop_class = event.request.AffectedSOPClassUID
        if sop_class not in IMAGE_CLASSES:
            if sop_class not in self._ignored:
                self._ignored.add(sop_class)
                self._on_event(f"objects of the class {sop_class.name} are accepted and not kept: they get no results")
            return _SUCCESS
        try:
            content = event.encoded_dataset()
            if len(content) > self.options.limits.max_bytes:
                self._on_event("an instance was refused: it is larger than the limit")
                return _CANNOT_UNDERSTAND
            self.spool.receive(str(event.request.AffectedSOPInstanceUID), content)
        except UsageError as error:
            self._on_event(f"an instance was refused: {error}")
            return _CANNOT_UNDERSTAND
        except SpoolError as error:
            self._on_event(f"an instance was refused for now: {error}")
            return _OUT_OF_RESOURCES
        self._arrived.set()
        return _SUCCESS

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by `check`, in the main thread
            self._failure = error

    def _score(self) -> None:
        pause = 0.0
        while not self._stopped.is_set():
            self._arrived.clear()
            try:
                waiting = self.spool.waiting(self.options.batch_size)
                if waiting:
                    self._score_batch(waiting)
            except SpoolError as error:
                pause = self._pause_after(error, pause)
                continue
            pause = 0.0
            if not waiting:
                self._arrived.wait(_IDLE_SECONDS)

    def _pause_after(self, error: SpoolError, before: float) -> float:
        """Wait until the spool is tried again: twice as long as before. Results that are sent make room."""
        pause = self._longer(before)
        self._on_event(f"the spool is tried again in {pause:.0f} s: {error}")
        self._stopped.wait(pause)
        return pause

    def _longer(self, pause: float) -> float:
        return min(_LONGEST_PAUSE, max(self.options.first_pause, 2 * pause))

    def _score_batch(self, waiting: Sequence[tuple[str, Path]]) -> None:
        uids = {path: uid for uid, path in waiting}
        for result in self._answers(list(uids)):
            self._finish(uids[result.path], result.unless_refused(self.options.refuse))
        self._made.set()

    def _answers(self, paths: list[Path]) -> list[FileResult]:
        try:
            return list(
                predict_files(
                    self._classifier,
                    paths,
                    findings=self._findings,
                    alpha=self.options.alpha,
                    batch_size=self.options.batch_size,
                    limits=self.options.limits,
                    exact=self.options.exact,
                )
            )
        except NonFiniteError as error:
            if len(paths) == 1:
                return [FileResult(paths[0], error=error)]
            # One image's fault is not its neighbours'.
            return [result for path in paths for result in self._answers([path])]

    def _finish(self, uid: str, result: FileResult) -> None:
        prediction = result.prediction
        if prediction is None:
            reason = "it cannot be read" if result.error is None else _without_path(result.error, result.path)
            self._put_aside(uid, reason, None)
            return
        try:
            content = self.spool.content(uid)
            results = self._results(uid, content, prediction)
        except SpoolError:
            raise
        except LrclrError as error:
            self._put_aside(uid, error.why or error.what, prediction.to_dict())
            return
        if results is None:
            self.spool.dismiss(uid)
        else:
            self.spool.add_results(uid, results)

    def _results(self, uid: str, content: bytes, prediction: Prediction) -> dict[Kind, tuple[str, bytes]] | None:
        """Objects for an instance; None for a heat map of lrclr, which a PACS gave back."""
        source = DicomSource.read(content)
        if source.uid != uid:
            # Otherwise the instance that has this UID would count as answered.
            raise ResultRefusedError(
                "there is no DICOM result for this image", why="its UID is not the one that its sender announced"
            )
        if source.is_own_result:
            return None
        for remark in source.remarks:
            if remark not in self._remarks:
                self._remarks.add(remark)
                self._on_event(f"results lack what is not valid in their image: {remark}")
        picture = read_image(content, limits=self.options.limits) if "sc" in self.options.kinds else None
        return {
            kind: (
                self._builder.uid(kind, source, self._alpha),
                self._builder.build(kind, source, prediction, picture),
            )
            for kind in self.options.kinds
        }

    def _put_aside(self, uid: str, reason: str, answer: dict[str, Any] | None) -> None:
        self.spool.fail(uid, reason, answer)
        self._on_event(f"an instance has no results and is kept in the spool's folder failed: {reason}")

    def _send(self) -> None:
        pause = 0.0
        refusals: Counter[str] = Counter()
        while not self._stopped.is_set():
            self._made.clear()
            failed, away = False, set[int]()
            try:
                # Results that were refused come last: those of one image must not keep back the others.
                outgoing = sorted(self.spool.outgoing(), key=lambda uid: refusals[uid])
            except SpoolError as error:
                pause = self._pause_after(error, pause)
                continue
            for uid in outgoing:
                if self._stopped.is_set():
                    return
                try:
                    whole = self._send_results(uid, away)
                except SpoolError as error:
                    self._on_event(f"results could not be sent and are kept: {error}")
                    whole = False
                if whole:
                    refusals.pop(uid, None)
                    pause = 0.0
                else:
                    failed = True
                    refusals[uid] += 1
            if failed:
                pause = self._longer(pause)
                self._stopped.wait(pause)
            else:
                self._made.wait(_IDLE_SECONDS)

    def _send_results(self, uid: str, away: set[int]) -> bool:
        """Send the results of an instance to the destinations that lack them.

        Args:
            uid: of the instance.
            away: numbers of the destinations that do not answer now; they are not asked. One that does not answer this
                time is added.

        Returns:
            Whether all destinations have the results.
        """
        taken = self._taken.setdefault(uid, set())
        missing = [number for number in range(len(self._destinations)) if number not in taken | away]
        results = self.spool.results(uid) if missing else {}
        for number in missing:
            try:
                self._destinations[number].store(results)
            except LrclrError as error:
                self._on_event(f"results could not be sent and are kept: {error}")
                if isinstance(error, ServerUnavailableError):
                    away.add(number)
            else:
                taken.add(number)
        if len(taken) < len(self._destinations):
            return False
        self.spool.answered(uid)
        del self._taken[uid]
        return True


def _without_path(error: LrclrError, path: Path) -> str:
    """What an error says of a file, without the file's name, which is a UID."""
    text = error.what if error.why is None else f"{error.what}: {error.why}"
    return text.replace(str(path), "the file").replace(path.name, "the file")
