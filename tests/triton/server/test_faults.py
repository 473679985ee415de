"""A server under load whose processes die or whose bundle changes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from lrclr import Bundle, ZeroShotClassifier
from lrclr.errors import BundleError, EngineError, LrclrError, ServerError, ServerUnavailableError
from lrclr.evaluation import store
from lrclr.images import read_reduced
from lrclr.samples import sample_paths
from lrclr.text import FindingSet
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer
from lrclr_export import ExportOptions, export_bundle
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.bundle import FileEntry
    from lrclr.checkpoints import Checkpoint
    from lrclr.inference import Prediction

pytestmark = pytest.mark.triton
OPTIONS = ServeOptions(grpc_port=0, http=False, metrics=False, instances=2)
IMAGE = sample_paths()[1]


def close(one: Prediction, other: Prediction) -> bool:
    return all(
        abs(mine.probability - its.probability) < 1e-6 for mine, its in zip(one.findings, other.findings, strict=True)
    )


class Load:
    """Threads that send requests in a loop, and their answers and errors.

    Args:
        pause: seconds between a thread's answer and its next request.

    Attributes:
        answers: the answers, each with its bundle.
        errors: the exceptions.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self.answers: list[tuple[str, Prediction]] = []
        self.errors: list[LrclrError] = []
        self._stop = Event()

    def _ask(self, address: str, options: ClientOptions) -> None:
        with Client(address, options) as client:
            while not self._stop.wait(self._pause):
                try:
                    reply = client.ask([IMAGE])
                    self.answers.append((reply.bundle, reply.predictions[0]))
                except LrclrError as error:
                    self.errors.append(error)

    @classmethod
    @contextmanager
    def on(cls, address: str, options: ClientOptions, *, threads: int = 4, pause: float = 0.1) -> Iterator[Load]:
        """A load during a block. At its end, every thread has had its last answer."""
        load = cls(pause)
        running = [Thread(target=load._ask, args=(address, options)) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield load
        finally:
            load._stop.set()
            for thread in running:
                thread.join()

    def wait_for(self, more: int) -> None:
        """Wait until there are this many more answers."""
        wanted = len(self.answers) + more
        bundles.wait_until(lambda: len(self.answers) >= wanted)

    def wait_for_an_error(self) -> None:
        """Wait until the server has answered with an error, as it does when it finds a dead process."""
        bundles.wait_until(lambda: self.errors != [])


def entry_of(file: Path) -> FileEntry:
    """The entry of a file in a manifest."""
    return {"sha256": bundles.sha256_of(file), "bytes": file.stat().st_size}


def expected(bundle: Path) -> Prediction:
    local = ZeroShotClassifier.from_bundle(bundle)
    return local.predict([read_reduced(IMAGE, local.spec.preprocess)])[0]


def backends(model: str, server: int) -> list[int]:
    """The processes of a model of a server."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return [int(pid) for pid in children if f"/{model}/" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.slow
def test_a_killed_backend_is_found_and_mended_in_the_same_server(folder: Path) -> None:
    told: list[str] = []
    right = expected(folder)
    with TritonServer(folder, OPTIONS, on_log=lambda level, text: told.append(f"{level}: {text}")) as server:
        with Load.on(server.grpc, ClientOptions(timeout=20, retries=0)) as load:
            load.wait_for(8)
            for process in backends("image_encoder", server.pid):
                os.kill(process, signal.SIGKILL)
            load.wait_for_an_error()
            server.check()
            errors = len(load.errors)
            load.wait_for(20)
        assert errors
        assert all(isinstance(error, ServerError | ServerUnavailableError | EngineError) for error in load.errors)
        assert all(close(answer, right) for _, answer in load.answers)
        assert any("loading the models again" in line for line in told)
        assert any("mended" in line for line in told)
        server.check()  # a working server is not changed
        assert sum("mended" in line for line in told) == 1


@pytest.mark.slow
def test_a_killed_server_is_an_error_in_time_and_answers_once_it_is_back(folder: Path) -> None:
    options = replace(OPTIONS, shared_memory=True)
    with TritonServer(folder, options) as server:
        port = int(server.grpc.rpartition(":")[2])
        with (
            Client(server.grpc, ClientOptions(timeout=3, retries=1)) as client,
            Client(server.grpc, ClientOptions(shared_memory=True)) as sharing,
        ):
            right = client.predict([IMAGE])[0]
            assert close(sharing.predict([IMAGE])[0], right)
            # A backend process that does not notice that its server is dead.
            os.kill(backends("lrclr", server.pid)[0], signal.SIGSTOP)
            os.kill(server.pid, signal.SIGKILL)
            with pytest.raises(ServerUnavailableError, match=r"did not answer|UNAVAILABLE|nothing listens"):
                client.predict([IMAGE])
            with pytest.raises(ServerError, match="ended with exit code"):
                server.wait(5)
            patient: list[Prediction] = []

            def ask() -> None:
                with Client(client.address, ClientOptions(timeout=60, retries=100, backoff=0.05)) as other:
                    patient.extend(other.predict([IMAGE]))

            asking = Thread(target=ask)
            asking.start()
            server.stop()
            with TritonServer(folder, replace(options, grpc_port=port)):
                asking.join()
                assert close(patient[0], right)
                assert close(client.predict([IMAGE])[0], right)
                # Shared memory outlives the server. The client registers it with the new server.
                assert close(sharing.predict([IMAGE])[0], right)
                assert close(sharing.predict([IMAGE])[0], right)


@pytest.mark.slow
def test_a_bundle_with_other_findings_takes_over(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Its warm-up has other sizes: those of its prompts."""
    bundle = bundles.copied(folder, tmp_path / "bundle")
    precision = Bundle(bundle).manifest.precision
    with TritonServer(bundle, OPTIONS) as server, Client(server.grpc) as client:
        assert len(client.predict([IMAGE])[0].findings) > 1
        export_bundle(replace(checkpoint, findings=FindingSet.from_names(["Edema"])), bundle, ExportOptions(precision))
        assert server.reload() == 2
        assert [finding.name for finding in client.predict([IMAGE])[0].findings] == ["Edema"]


@pytest.mark.slow
def test_a_new_bundle_takes_over_and_a_broken_one_does_not(folder: Path, tmp_path: Path) -> None:
    bundle = bundles.copied(folder, tmp_path / "bundle")
    first = expected(bundle)
    old = Bundle(bundle).manifest
    with TritonServer(bundle, OPTIONS) as server, Load.on(server.grpc, ClientOptions(retries=0)) as load:
        load.wait_for(8)
        store(bundle, alpha=0.9, score_scale=3.0)
        second = expected(bundle)
        assert not close(first, second)
        assert server.reload() == 2
        load.wait_for(12)
        names = Counter(name for name, _ in load.answers)
        assert len(names) == 2
        sha_of_old = load.answers[0][0]
        for name, answer in load.answers:
            assert close(answer, first if name == sha_of_old else second)
        assert load.answers[-1][0] != sha_of_old

        # A file that does not match the manifest.
        encoder = bundle / "image_encoder" / "1" / "model.onnx"
        encoder_then = encoder.read_bytes()
        encoder.unlink()
        encoder.write_bytes(encoder_then[:-1] + b"\0")
        with pytest.raises(BundleError, match="image_encoder"):
            server.reload()

        # The manifest matches, but no runtime can load the graph.
        encoder.write_bytes(encoder_then[: len(encoder_then) // 2])
        names_of_changed = ("image_encoder/1/model.onnx", "golden.npz", "README.md")
        changed = {name: entry_of(bundle / name) for name in names_of_changed}
        (bundle / "manifest.json").unlink()
        (bundle / "manifest.json").write_text(replace(old, files={**old.files, **changed}).to_json())
        answered = len(load.answers)
        with pytest.raises(ServerError, match="refused, and the old one is still served"):
            server.reload()
        load.wait_for(12)
        assert all(close(answer, second) for _, answer in load.answers[answered:])
        assert load.errors == []

        # A server that refused bundles can still be repaired, and keeps no version that does not answer.
        for process in backends("image_encoder", server.pid):
            os.kill(process, signal.SIGKILL)
        load.wait_for_an_error()
        server.check()
        load.wait_for(4)
        copies = server._repository.repository.parent / "bundles"
        while len(list(copies.iterdir())) > 1:
            server.wait(0.05)
        assert close(load.answers[-1][1], second)
