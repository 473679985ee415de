"""`lrclr listen`: a receiver for images from pynetdicom, dcmtk and Orthanc."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import socket
import stat
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation

from benchmarks.phantom.dicom import Storage

# Private: the notation of an address has no public name.
from lrclr._addresses import Address
from lrclr.cli import main
from lrclr.errors import LrclrError, ServerError, ServerUnavailableError, UsageError
from lrclr.images import ReadLimits
from lrclr.pacs import DimseDestination, FolderDestination, Listener, ListenOptions, Spool, SpoolFullError
from tests.bundles import free_ports
from tests.dicom_results import conformance
from tests.pacs.studies import PATIENT, study

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lrclr.dicom_results import Kind
    from lrclr.inference import ZeroShotClassifier
    from tests.pacs.orthanc import Orthanc

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
ANY_PORT = ListenOptions(port=0, kinds=("sr",), first_pause=0.01)


@dataclass
class Kept:
    """A destination that keeps accepted results, and refuses the first few times."""

    refusals: int = 0
    taken: list[dict[Kind, tuple[str, bytes]]] = field(default_factory=list)

    def store(self, results: Mapping[Kind, tuple[str, bytes]]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ServerUnavailableError("the archive cannot be reached", why="it is stopped")
        self.taken.append(dict(results))

    def answers(self) -> Counter[str]:
        """How often each image was answered."""
        return Counter(referenced(content) for results in self.taken for _, content in results.values())


def referenced(content: bytes) -> str:
    """The image to which a report refers."""
    report = pydicom.dcmread(BytesIO(content))
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    return str(evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def uid_of(content: bytes) -> str:
    return str(pydicom.dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)


def send(port: int, *contents: bytes, calling: str = "STORESCU", called: str = "LRCLR") -> list[int | None]:
    """Status of each instance. None if it was not sent."""
    entity = AE(calling)
    datasets = [pydicom.dcmread(BytesIO(content)) for content in contents]
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return [None] * len(contents)
    statuses: list[int | None] = []
    for dataset in datasets:
        try:
            statuses.append(int(association.send_c_store(dataset).Status))
        except ValueError:
            statuses.append(None)
    if not datasets:
        statuses = [int(association.send_c_echo().Status)]
    association.release()
    return statuses


def wait(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def listening(
    classifier: ZeroShotClassifier, spool: Path, destination: Any, options: ListenOptions = ANY_PORT
) -> Iterator[Listener]:
    """A listener, whose spool must be empty when the block ends."""
    with Listener(classifier, spool, [destination], options) as listener:
        yield listener
        wait(lambda: not is_busy(listener))


def is_busy(listener: Listener) -> bool:
    """Whether an instance or its results are waiting."""
    listener.check()
    counts = listener.spool.counts()
    return counts["waiting"] + counts["outgoing"] > 0


def test_what_is_accepted_is_answered_once(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    contents = [study(number, storage=Storage(transfer_syntax=JPEG2000Lossless)) for number in range(5)]
    kept = Kept()
    with listening(classifier, tmp_path, kept) as listener:
        assert send(listener.port) == [SUCCESS]
        assert send(listener.port, *contents) == [SUCCESS] * 5
        # A sender that did not receive the reply sends again.
        assert send(listener.port, *contents[:2]) == [SUCCESS] * 2
    wanted = {uid_of(content) for content in contents}
    assert kept.answers() == dict.fromkeys(wanted, 1)
    with listening(classifier, tmp_path, kept) as listener:
        assert send(listener.port, *contents) == [SUCCESS] * 5
    assert kept.answers() == dict.fromkeys(wanted, 1)
    file = tmp_path / "report.dcm"
    file.write_bytes(kept.taken[0]["sr"][1])
    assert not conformance.errors_of(file)
    # No patient data remain.
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path != file]
    assert {path.name for path in left} == {"lock", "ledger.sqlite"}
    assert not any(PATIENT.encode() in path.read_bytes() for path in left)


def test_who_may_send_what(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    options = ListenOptions(port=0, accept=("MODALITY",), kinds=("sr",))
    report = pydicom.dcmread(BytesIO(study(1)))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    stream = BytesIO()
    report.save_as(stream)
    kept, events = Kept(), list[str]()
    with Listener(classifier, tmp_path, [kept], options, on_event=events.append) as listener:
        assert send(listener.port, study(1), calling="STRANGER") == [None]
        assert send(listener.port, study(1), calling="MODALITY", called="OTHER") == [None]
        # A sender of whole studies also sends reports. They are not kept.
        assert send(listener.port, *[stream.getvalue()] * 2, study(1), calling="MODALITY") == [SUCCESS] * 3
        wait(lambda: not is_busy(listener))
    assert kept.answers() == {uid_of(study(1)): 1}
    (event,) = events
    assert "Comprehensive SR Storage are accepted and not kept" in event
    with pytest.raises(UsageError, match="--accept"):
        ListenOptions(host="0.0.0.0")
    with pytest.raises(UsageError, match="not an AE title"):
        ListenOptions(accept=("a" * 17,))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"port": 99999}, "99999 is not a port"),
        ({"port": -1}, "-1 is not a port"),
        ({"alpha": 7.0}, r"alpha is 7\.0\. It must be between 0 and 1\."),
        ({"alpha": float("nan")}, "between 0 and 1"),
        ({"batch_size": 0}, "a batch needs at least one image"),
        ({"spool_bytes": 0}, "the spool needs at least one byte"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_at_the_start(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ListenOptions(**options)


def test_a_full_spool_asks_the_sender_to_try_again(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    content = study(1)
    kept = Kept(refusals=10**9)
    events: list[str] = []
    options = ListenOptions(port=0, kinds=("sr",), spool_bytes=len(content) + 100, first_pause=0.01)
    with Listener(classifier, tmp_path, [kept], options, on_event=events.append) as listener:
        assert send(listener.port, content) == [SUCCESS]
        assert send(listener.port, study(2)) == [OUT_OF_RESOURCES]
        wait(lambda: listener.spool.counts()["outgoing"])
        kept.refusals = 0
        wait(lambda: kept.taken)
        wait(lambda: not listener.spool.counts()["outgoing"])
        assert send(listener.port, study(2)) == [SUCCESS]
        wait(lambda: len(kept.taken) == 2)
    assert any("the spool is full" in event for event in events)
    assert not any(PATIENT in event or "SECRET" in event for event in events)


def test_results_wait_for_an_archive_that_is_away(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    kept = Kept(refusals=3)
    with listening(classifier, tmp_path, kept) as listener:
        send(listener.port, study(1), study(2))
    assert sorted(kept.answers().values()) == [1, 1]


def test_silent_connections_hold_nobody_up(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    """Connections that stop in the middle of a packet: pynetdicom alone would wait for them for ever."""
    kept = Kept()
    beginnings = (b"", b"\x01\x00\x00", b"\x01\x00\x00\x00\x01\x00" + bytes(20), b"GET / HTTP/1.1\r\n\r\n")
    silent = []
    with listening(classifier, tmp_path, kept) as listener:
        for _ in range(6):
            for beginning in beginnings:
                silent.append(socket.create_connection(("127.0.0.1", listener.port)))
                silent[-1].sendall(beginning)
        assert send(listener.port, study(1)) == [SUCCESS]
    # They are disconnected when the receiver ends.
    for each in silent:
        each.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while each.recv(1000):
                pass
        each.close()
    assert kept.answers() == {uid_of(study(1)): 1}


def test_a_sender_cannot_send_without_end(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    """One packet of 4 GiB, and an instance above the limit."""
    content, kept = study(1), Kept()
    options = replace(ANY_PORT, limits=ReadLimits(max_bytes=len(content)))
    with listening(classifier, tmp_path, kept, options) as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as endless, pytest.raises(ConnectionError):
            endless.sendall(b"\x01\x00" + b"\xff" * 4 + bytes(100 << 20))
        larger = study(2, ImageComments="x" * 1000)
        assert send(listener.port, larger, content) == [CANNOT_UNDERSTAND, SUCCESS]
    assert kept.answers() == {uid_of(content): 1}


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\x01\x00\xff\xff\xff\xf0", "it announced a PDU of 4294967280 bytes"),
        (b"\x04\x00\x00\x01\x00\x00", "it announced a PDU of 65536 bytes"),
        (b"\x01\x00\x00\x00\x10\x00", "a PDU was not complete after 0 seconds"),
    ],
)
def test_a_pdu_has_a_largest_size_and_a_latest_end(
    start: bytes, reason: str, classifier: ZeroShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections without an AE title held all the memory for instances: they announced 4 GiB, and then dripped."""
    monkeypatch.setattr("lrclr.pacs._connections._PDU_SECONDS", 0.3)
    events: list[str] = []
    with Listener(classifier, tmp_path, [Kept()], ANY_PORT, on_event=events.append) as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as sender, contextlib.suppress(ConnectionError):
            sender.sendall(start)
            for _ in range(50):
                time.sleep(0.1)
                sender.sendall(b"x")
            pytest.fail("the connection is open")
        assert events == [f"the connection from 127.0.0.1 was closed: {reason}"]
        assert send(listener.port) == [SUCCESS]


def test_the_connection_that_sent_most_makes_room_for_the_others(
    classifier: ZeroShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender with an accepted title that leaves an instance incomplete."""
    monkeypatch.setattr("lrclr.pacs._connections._AT_ONCE", 1)
    content, events = study(1), list[str]()
    options = replace(ANY_PORT, limits=ReadLimits(max_bytes=len(content)))
    with Listener(classifier, tmp_path, [Kept()], options, on_event=events.append) as listener:
        entity = AE("GREEDY")
        entity.add_requested_context(DigitalXRayImageStorageForPresentation)
        association = entity.associate("127.0.0.1", listener.port, ae_title="LRCLR")
        fragment = struct.pack(">BBLLBB", 4, 0, 16382, 16378, 1, 0) + bytes(16376)
        for _ in range(((1 << 20) + int(1.25 * len(content))) // len(fragment)):
            association.dul.socket.socket.sendall(fragment)
        time.sleep(0.5)
        assert send(listener.port, content) == [SUCCESS]
        wait(lambda: not association.is_established)
    assert events == ["the connection from 127.0.0.1 was closed: all senders together sent too much, and it sent most"]


def test_an_instance_under_the_uid_of_another_one(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    """It is put aside; the instance that has the UID is answered when it comes."""
    kept, dataset = Kept(), pydicom.dcmread(BytesIO(study(2)))
    entity = AE("STORESCU")
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    with Listener(classifier, tmp_path, [kept], ANY_PORT) as listener:
        association = entity.associate("127.0.0.1", listener.port, ae_title="LRCLR")
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = dataset.SOPClassUID, uid_of(study(1))
        request.DataSet = BytesIO(encode(dataset, is_implicit_vr=False, is_little_endian=True))
        # As `send_c_store` does: otherwise the association's own thread may take the answer.
        association._reactor_checkpoint.clear()
        wait(lambda: association._is_paused)
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status == SUCCESS
        association.release()
        wait(lambda: listener.spool.counts()["failed"] == 1)
        assert send(listener.port, study(1)) == [SUCCESS]
        wait(lambda: kept.taken)
    assert kept.answers() == {uid_of(study(1)): 1}
    (reason,) = (tmp_path / "failed").glob("*.json")
    assert "not the one that its sender announced" in reason.read_text()


def test_a_full_disk_costs_no_image(
    classifier: ZeroShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first images cannot be received, then their results cannot be kept."""
    kept, events, full = Kept(), list[str](), threading.Event()
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with Listener(classifier, tmp_path, [kept], ANY_PORT, on_event=events.append) as listener:
        full.set()
        assert send(listener.port, study(1)) == [OUT_OF_RESOURCES]
        assert not any(path.is_file() for path in (tmp_path / "received").iterdir())
        full.clear()
        scoring = listener.spool.add_results

        def add_results(uid: str, results: Any) -> None:
            full.set()
            scoring(uid, results)

        monkeypatch.setattr(listener.spool, "add_results", add_results)
        assert send(listener.port, study(1)) == [SUCCESS]
        wait(lambda: any("is tried again" in event for event in events))
        monkeypatch.setattr(listener.spool, "add_results", scoring)
        full.clear()
        wait(lambda: kept.taken)
    assert kept.answers() == {uid_of(study(1)): 1}
    assert any("No space left on device" in event for event in events)


def test_results_that_are_always_refused_keep_back_no_others(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    first, second = sorted((study(1), study(2)), key=uid_of)

    class Picky(Kept):
        def store(self, results: Mapping[Kind, tuple[str, bytes]]) -> None:
            if referenced(results["sr"][1]) == uid_of(first):
                raise ServerUnavailableError("the archive did not take the results", why="its status is 0xa700")
            super().store(results)

    picky = Picky()
    with Listener(classifier, tmp_path, [picky], ANY_PORT) as listener:
        assert send(listener.port, first, second) == [SUCCESS] * 2
        wait(lambda: picky.taken)
    assert picky.answers() == {uid_of(second): 1}


def test_images_without_results_make_room_for_new_ones(tmp_path: Path) -> None:
    """Otherwise a site that refuses many images would have a full spool after some time."""
    spool, failed = Spool(tmp_path, 3000, "model"), tmp_path / "failed"
    for uid in ("1.2", "1.3"):
        spool.receive(uid, b"x" * 900)
        spool.fail(uid, "it cannot be read", None)
        os.utime(failed / f"{uid}.dcm", (int(uid[-1]), int(uid[-1])))
    assert spool.receive("1.4", b"x" * 1500)
    assert {file.name for file in failed.iterdir()} == {"1.2.json", "1.3.dcm", "1.3.json"}
    with pytest.raises(SpoolFullError):
        spool.receive("1.5", b"x" * 2900)
    # To delete what is there would not be enough.
    assert {file.name for file in failed.iterdir()} == {"1.2.json", "1.3.dcm", "1.3.json"}
    os.utime(failed / "1.2.json", (1, 1))
    spool.receive("1.6", b"x" * (1500 - (failed / "1.3.json").stat().st_size))
    assert {file.name for file in failed.iterdir()} == {"1.3.json"}
    assert [uid for uid, _ in spool.waiting(9)] == ["1.4", "1.6"]
    spool.close()


def _broken(content: bytes) -> bytes:
    dataset = pydicom.dcmread(BytesIO(content))
    dataset.Rows = 700
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_images_without_results_are_kept_with_the_reason(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    kept, events = Kept(), list[str]()
    nameless = study(2, Modality="")
    own = study(3, Manufacturer="lrclr")
    with Listener(classifier, tmp_path, [kept], ANY_PORT, on_event=events.append) as listener:
        assert send(listener.port, _broken(study(1)), nameless, own, study(4, PatientSex="X")) == [SUCCESS] * 4
        wait(lambda: kept.taken and listener.spool.counts() == {"waiting": 0, "outgoing": 0, "failed": 2})
    assert kept.answers() == {uid_of(study(4)): 1}
    reasons = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "failed").glob("*.json")}
    assert set(reasons) == {uid_of(study(1)), uid_of(nameless)}
    # The prediction is given if there is one.
    assert reasons[uid_of(nameless)]["prediction"]["findings"]
    assert "Modality" in reasons[uid_of(nameless)]["reason"]
    assert reasons[uid_of(study(1))]["prediction"] is None
    assert len(list((tmp_path / "failed").glob("*.dcm"))) == 2
    assert len(events) == 3
    assert any("PatientSex is not valid and is left empty" in event for event in events)
    assert PATIENT not in str(events) + str(reasons)


def test_refused_images_are_accepted_and_put_aside(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    kept, knee = Kept(), study(2, BodyPartExamined="KNEE")
    options = replace(ANY_PORT, refuse=frozenset({"other_body_part"}))
    with Listener(classifier, tmp_path, [kept], options) as listener:
        assert send(listener.port, knee, study(3)) == [SUCCESS] * 2
        wait(lambda: kept.taken and listener.spool.counts() == {"waiting": 0, "outgoing": 0, "failed": 1})
    assert kept.answers() == {uid_of(study(3)): 1}
    content = json.loads((tmp_path / "failed" / f"{uid_of(knee)}.json").read_text())
    assert "other_body_part" in content["reason"]
    assert content["prediction"] is None


@pytest.mark.slow
def test_killed_at_every_step_it_loses_nothing(
    classifier: ZeroShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the spool is taken before every change: this is what a killed process would leave.

    A second receiver continues from each copy. The results that the first one had delivered, and its replies to
    senders, are kept with the copy.
    """
    content = study(1)
    moments: list[tuple[Path, bool, int]] = []
    kept, told = Kept(), list[bool]()
    spool = tmp_path / "spool"

    # The receiver's threads make one change at a time, so that each copy shows one moment.
    mutex = threading.RLock()
    copying = shutil.copytree

    def moment() -> None:
        copy = tmp_path / f"moment-{len(moments)}"
        copying(spool, copy, ignore=shutil.ignore_patterns("*-journal"))
        moments.append((copy, bool(told), len(kept.taken)))

    def before(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            with mutex:
                if str(spool) in str(arguments) or owner is os:
                    moment()
                return original(*arguments, **options)

        patch.setattr(owner, name, wrapped)

    with monkeypatch.context() as patch, listening(classifier, spool, kept) as listener:
        receive = listener.spool.receive

        def receiving(uid: str, data: bytes) -> bool:
            done = receive(uid, data)
            with mutex:
                told.append(done)
                moment()
            return done

        patch.setattr(listener.spool, "receive", receiving)
        for owner, name in (
            (os, "fsync"),
            (Path, "replace"),
            (Path, "rename"),
            (Path, "unlink"),
            (shutil, "rmtree"),
        ):
            before(patch, owner, name)
        original = kept.store

        def storing(results: Any) -> None:
            with mutex:
                moment()
                original(results)
                moment()

        patch.setattr(kept, "store", storing)
        assert send(listener.port, content) == [SUCCESS]
    assert len(moments) > 12
    assert {accepted for _, accepted, _ in moments} == {True, False}
    for copy, accepted, delivered in moments:
        again = Kept()
        with listening(classifier, copy, again) as listener:
            if not accepted:
                # The sender was not informed that it was accepted, and sends it again.
                assert send(listener.port, content) == [SUCCESS]
        results = [*kept.taken[:delivered], *again.taken]
        # An archive keeps one of two objects with the same UID.
        assert len({uid for each in results for uid, _ in each.values()}) == 1
        assert Counter(referenced(body) for each in results for _, body in each.values()).keys() == {uid_of(content)}


def test_a_spool_has_one_receiver_and_nothing_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1000, "model")
    with pytest.raises(LrclrError, match="another receiver"):
        Spool(tmp_path / "spool", 1000, "model")
    for uid in ("../1.2", ".", "", "1.", "1..2", "1.2/3", "1" * 65, "1.x"):
        with pytest.raises(LrclrError, match="not a UID"):
            spool.receive(uid, b"x")
    assert spool.receive("1.2", b"x" * 900)
    with pytest.raises(SpoolFullError):
        spool.receive("1.3", b"x" * 900)
    spool.close()
    # Another model has not answered for it.
    spool = Spool(tmp_path / "spool", 1000, "model")
    spool.add_results("1.2", {"sr": ("1.9", b"y")})
    spool.answered("1.2")
    assert not spool.receive("1.2", b"x")
    spool.close()
    spool = Spool(tmp_path / "spool", 1000, "another")
    assert spool.receive("1.2", b"x")
    spool.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="1 other files"):
        Spool(tmp_path / "other", 1000, "model")


def test_other_accounts_have_no_rights_on_a_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(0o755)
    Spool(folder, 1000, "model").close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("lock", "ledger.sqlite")} == {0o600}
    folder.chmod(0o755)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not the owner")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(UsageError, match="every account"):
        Spool(folder, 1000, "model")


def test_results_by_c_store_and_into_folders(classifier: ZeroShotClassifier, target: Orthanc, tmp_path: Path) -> None:
    destination = DimseDestination("ORTHANC", Address("127.0.0.1", target.dicom))
    (tmp_path / "sr").mkdir()
    options = ListenOptions(port=0, kinds=("sr", "sc"))
    folder = FolderDestination({"sr": tmp_path / "sr"})
    content = study(77)
    before = {kind: len(target.instances(kind)) for kind in ("SR", "SC")}
    with Listener(classifier, tmp_path / "spool", [destination, folder], options) as listener:
        assert send(listener.port, content) == [SUCCESS]
        wait(lambda: list((tmp_path / "sr").glob("*.sr.dcm")))
    assert {kind: len(target.instances(kind)) for kind in ("SR", "SC")} == {kind: n + 1 for kind, n in before.items()}
    (file,) = (tmp_path / "sr").iterdir()
    assert referenced(file.read_bytes()) == uid_of(content)
    with listening(classifier, tmp_path / "other", Kept()) as listener:
        stranger = DimseDestination("OTHER", Address("127.0.0.1", listener.port), "MINE")
        with pytest.raises(ServerUnavailableError, match="rejects a connection from the AE title MINE to OTHER"):
            stranger.store({"sr": ("1.2", file.read_bytes())})


@contextmanager
def archive(*classes: str) -> Iterator[tuple[DimseDestination, list[Any]]]:
    """A receiver of objects of these classes, uncompressed ones only, and what it has received."""
    received: list[Any] = []

    def store(event: Any) -> int:
        received.append(pydicom.dcmread(BytesIO(event.encoded_dataset())))
        return SUCCESS

    entity = AE("ARCHIVE")
    for each in classes:
        entity.add_supported_context(each)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield DimseDestination("ARCHIVE", Address("127.0.0.1", server.socket.getsockname()[1])), received
    finally:
        server.shutdown()


CAPTURE, REPORT = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33"


def test_an_archive_without_jpeg_2000_gets_heat_maps_uncompressed(
    classifier: ZeroShotClassifier, tmp_path: Path
) -> None:
    kept, options = Kept(), replace(ANY_PORT, kinds=("sr", "sc"))
    with listening(classifier, tmp_path, kept, options) as listener:
        send(listener.port, study(1))
    (results,) = kept.taken
    with archive(CAPTURE, REPORT) as (destination, received):
        destination.store(results)
    arrived = {each.SOPClassUID: each for each in received}
    assert arrived.keys() == {CAPTURE, REPORT}
    capture = pydicom.dcmread(BytesIO(results["sc"][1]))
    assert arrived[CAPTURE].SOPInstanceUID == capture.SOPInstanceUID
    np.testing.assert_array_equal(arrived[CAPTURE].pixel_array, capture.pixel_array)
    # One without heat maps gets the report nevertheless.
    refused = pytest.raises(ServerError, match="it accepts no Secondary Capture Image Storage")
    with archive(REPORT) as (destination, received), refused:
        destination.store({"sc": results["sc"], "sr": results["sr"]})
    assert [each.SOPClassUID for each in received] == [REPORT]
    # Nor is a heat map sent to one that is to get reports only.
    with archive(CAPTURE, REPORT) as (destination, received):
        replace(destination, kinds=("sr",)).store(results)
    assert [each.SOPClassUID for each in received] == [REPORT]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--kinds", "sr"], "--kinds needs --store"),
        (["--store", "ARCHIVE@127.0.0.1:104", "--kinds", "pdf"], "--kinds cannot be 'pdf': Choose of sr, sc, gsps"),
        (["--store", "ARCHIVE@127.0.0.1:99999"], "Give AE@HOST:PORT, for example ORTHANC@127.0.0.1:4242"),
        (["--sr", "{folder}/sr", "--spool-gib", "nan"], "--spool-gib nan is not the size of a spool"),
        (["--sr", "{folder}/sr", "--spool-gib", "inf"], "--spool-gib inf is not the size of a spool"),
    ],
)
def test_wrong_options_of_the_command(
    options: list[str], reason: str, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.format(folder=tmp_path) for option in options]
    assert main(["listen", str(tmp_path / "spool"), "-b", str(fp32_bundle), "--port", "0", *given]) == 2
    assert reason in capsys.readouterr().err.replace(". Choose", ": Choose")


def test_an_archive_without_an_address_is_tried_again() -> None:
    with pytest.raises(ServerUnavailableError, match=r"ARCHIVE@pacs\.invalid:104 cannot be reached"):
        DimseDestination("ARCHIVE", Address("pacs.invalid", 104)).store({"sr": ("1.2", study(1))})


def test_one_destination_does_not_hold_up_another(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    away, there = Kept(refusals=10**9), Kept()
    with Listener(classifier, tmp_path, [away, there], ANY_PORT) as listener:
        send(listener.port, study(1), study(2))
        wait(lambda: len(there.taken) == 2)
        away.refusals = 0
        wait(lambda: not is_busy(listener))
    assert sorted(there.answers().values()) == sorted(away.answers().values()) == [1, 1]


def test_an_archive_that_never_answers_does_not_keep_the_receiver_from_stopping(
    classifier: ZeroShotClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrclr.pacs._listener._STOP_SECONDS", 0.2)
    begun, ends = threading.Event(), threading.Event()

    class Silent:
        def store(self, _results: object) -> None:
            begun.set()
            ends.wait(60)
            raise ServerUnavailableError("the archive cannot be reached")

    with Listener(classifier, tmp_path, [Silent()], ANY_PORT) as listener:
        send(listener.port, study(1))
        assert begun.wait(60)
    assert not ends.is_set()
    ends.set()
    # Nothing is lost.
    kept = Kept()
    with listening(classifier, tmp_path, kept):
        pass
    assert kept.answers() == {uid_of(study(1)): 1}


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_not_there() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        DimseDestination("ORTHANC", Address("127.0.0.1", port)).store({"sr": ("1.2", study(1))})
    gc.collect()


def test_dcmtk_can_send(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    (tmp_path / "image.dcm").write_bytes(study(5))
    kept = Kept()
    with listening(classifier, tmp_path / "spool", kept) as listener:
        conformance.dcmtk("echoscu", "-aec", "LRCLR", "127.0.0.1", listener.port)
        conformance.dcmtk("storescu", "-aec", "LRCLR", "127.0.0.1", listener.port, tmp_path / "image.dcm")
    assert kept.answers() == {uid_of(study(5)): 1}


def test_a_port_that_is_taken(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        options = ListenOptions(port=held.getsockname()[1])
        with pytest.raises(LrclrError, match="cannot be listened on"), Listener(classifier, tmp_path, [], options):
            pass
