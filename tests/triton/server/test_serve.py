"""`lrclr serve` as a user runs it: its output, the files that it leaves, access for other users, and refusals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr.cli import main
from lrclr.errors import ServerUnavailableError, UsageError
from lrclr.evaluation import store
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer
from tests import bundles
from tests.triton import raw_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.triton
# A server must start without a reachable proxy.
DEAD_PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
ANY_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


class Served:
    """`lrclr serve` in another process.

    Args:
        folder: folder for its temporary files and its output.
        arguments: arguments of the command.
        stderr: destination of its notes. By default a file in `folder`.
    """

    def __init__(self, folder: Path, *arguments: object, stderr: str | None = None) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("w") as out, Path(stderr or self.err).open("w") as err:
            self.process = subprocess.Popen(
                [*bundles.LRCLR, "serve", *map(str, arguments)],
                stdout=out,
                stderr=err,
                env=bundles.environment(TMPDIR=str(self.temporary), PYTHONUNBUFFERED="1", **DEAD_PROXIES),
            )

    def grpc(self) -> str:
        """The address, after the server has printed it."""
        while self.process.poll() is None:
            match = re.search(r"gRPC +(\S+)\n", self.out.read_text())
            if match:
                return match[1]
            time.sleep(0.05)
        raise AssertionError(self.err.read_text() if self.err.is_file() else "it ended")

    def end(self, how: signal.Signals) -> int:
        """Send a signal. Returns the exit code."""
        self.process.send_signal(how)
        return self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[type[Served]]:
    """Starts `Served` processes, which end with the test."""
    made: list[Served] = []

    class Kept(Served):
        def __init__(self, *arguments: object, stderr: str | None = None) -> None:
            super().__init__(tmp_path, *arguments, stderr=stderr)
            made.append(self)

    yield Kept
    for one in made:
        if one.process.poll() is None:
            one.end(signal.SIGTERM)
        # pytest shows this if the test failed.
        if one.err.is_file():
            print(f"lrclr serve ended with {one.process.returncode}:\n{one.err.read_text()}")


def shared_memory(owner: int) -> set[str]:
    """Files in /dev/shm of an `lrclr serve` with this process number and of its server."""
    return {path.name for path in Path("/dev/shm").glob(f"*lrclr_{owner}_*")}


def read_command(file: Path) -> str:
    """The command line of a process; "" if it has ended."""
    try:
        return file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def servers_in(folder: Path) -> list[str]:
    """Processes of a server or backend whose command line names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        command = read_command(process)
        if str(folder) in command and "triton" in command:
            found.append(command)
    return found


def ended_leaving_nothing(served: Served, how: signal.Signals) -> None:
    assert servers_in(served.temporary)
    assert shared_memory(served.process.pid)
    assert served.end(how) == 0
    assert servers_in(served.temporary) == []
    assert shared_memory(served.process.pid) == set()
    assert list(served.temporary.iterdir()) == []


def test_it_answers_and_leaves_nothing(
    serve: type[Served], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(folder, *ANY_PORTS, "--instances", 1)
    images = [str(path) for path in sample_paths()[:2]]
    assert main(["predict", *images, "--server", served.grpc(), "--json"]) == 0
    there = capsys.readouterr().out
    assert main(["predict", *images, "-b", str(folder), "--json", "--batch-size", "1"]) == 0
    assert there == capsys.readouterr().out
    # A report of the server equals the report of the bundle.
    image = str(sample_paths("dicom")[0])
    for name, whose in (("there", ["--server", served.grpc()]), ("here", ["-b", str(folder)])):
        assert main(["predict", image, *whose, "--sr", str(tmp_path / name)]) == 0
    assert [file.name for file in (tmp_path / "there").iterdir()] == [
        file.name for file in (tmp_path / "here").iterdir()
    ]
    ended_leaving_nothing(served, signal.SIGTERM)
    assert "Research use only" in served.err.read_text()
    assert not re.search("exposed|error|warning", served.err.read_text())


@pytest.mark.slow
def test_a_full_disk_behind_the_log_stops_no_answer(serve: type[Served], folder: Path) -> None:
    served = serve(folder, *ANY_PORTS, "--instances", 1, "--verbose", "--health-every", "0.2", stderr="/dev/full")
    with Client(served.grpc()) as client:
        for _ in range(5):
            assert len(client.predict(sample_paths()[:1])) == 1
            time.sleep(0.2)
    assert served.process.poll() is None
    assert served.end(signal.SIGTERM) == 0
    assert servers_in(served.temporary) == []


@pytest.mark.slow
def test_a_dead_process_is_found_before_the_next_check(serve: type[Served], folder: Path) -> None:
    """Its graph has no other process, so that all requests fail until the models are loaded again."""
    served = serve(folder, *ANY_PORTS, "--instances", 1, "--health-every", "3600", "--verbose")
    with Client(served.grpc(), ClientOptions(timeout=10, retries=0)) as client:
        assert len(client.predict(sample_paths()[:1])) == 1
        victims = [
            int(process.parent.name)
            for process in Path("/proc").glob("[0-9]*/cmdline")
            if str(served.temporary) in (command := read_command(process)) and "/image_encoder/" in command
        ]
        for process in victims:
            os.kill(process, signal.SIGKILL)
        assert victims
        bundles.wait_until(lambda: "mended" in served.err.read_text(), served.process)
        assert len(client.predict(sample_paths()[:1])) == 1


@pytest.mark.slow
def test_what_is_exposed_is_said(serve: type[Served], folder: Path) -> None:
    (closed,) = bundles.free_ports(1)
    ports = (*ANY_PORTS, "--http-port", closed, "--no-http")
    served = serve(folder, "--address", "0.0.0.0", *ports, "--instances", 1, "--shared-memory")
    port = served.grpc().rpartition(":")[2]
    with Client(f"127.0.0.1:{port}", ClientOptions(shared_memory=True)) as client:
        assert len(client.predict(sample_paths()[:1])) == 1
    said = served.err.read_text()
    assert "exposed: every client that can reach 0.0.0.0 gets answers, without a login; nothing is encrypted" in said
    assert "clients on this machine can map shared memory" in said
    assert "HTTP" not in served.out.read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", closed), 5)
    ended_leaving_nothing(served, signal.SIGINT)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("none",), 1, "bundle"),
        (("{bundle}", "--server", "none"), 1, "is not an executable file"),
        (("{bundle}", "--server", "/bin/false", *ANY_PORTS), 1, "ended with exit code 1"),
        (("{bundle}", "--address", "hospital"), 2, "is not an IP address"),
        (("{bundle}", "--address", "192.0.2.1"), 1, "cannot listen on 192.0.2.1"),
        (("{bundle}", "--grpc-port", "{taken}"), 1, "cannot listen on 127.0.0.1 port {taken}"),
        (("{bundle}", "--grpc-port", "70000"), 2, "between 0 and 65535"),
        (("{bundle}", "--grpc-port", "9", "--http-port", "9"), 2, "two ports are the same"),
        (("{bundle}", "--tls-cert", "{bundle}/manifest.json"), 2, "certificate and its key"),
        (("{bundle}", "--instances", "0"), 2, "instances are not possible"),
        (("{bundle}", "--model-control"), 2, "--model-control was removed"),
    ],
)
def test_a_wrong_call_is_an_error_with_a_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = {"bundle": folder, "taken": taken.getsockname()[1]}
        assert main(["serve", *(argument.format(**words) for argument in arguments)]) == code
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith("error: ")
    assert said.format(**words) in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "#!/bin/sh\nseq 100\necho 'libdcgm.so.4: cannot open shared object file' >&2\nexit 127\n",
            "exit code 127: its last output is: 97 | 98 | 99 | 100 | libdcgm.so.4: cannot open shared object file.",
        ),
        ("#!/bin/sh\nexit 3\n", "exit code 3: it printed nothing."),
        # A message of Triton's log says more than the last lines.
        (
            "#!/bin/sh\necho 'E1127 13:58:13.9 1 server.cc:241] \"no memory\"'\necho more\nexit 1\n",
            "exit code 1: no memory",
        ),
        ("no program\n", "server cannot be run: Exec format error."),
    ],
)
def test_a_program_that_ends_at_once_is_quoted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, said: str
) -> None:
    program = tmp_path / "server"
    program.write_text(script)
    program.chmod(0o755)
    assert main(["serve", str(folder), "--server", str(program), *ANY_PORTS]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert (f"Check that {program} is Triton's server" in error) == ("last output" in said or "nothing" in said)


def test_it_can_be_ended_while_it_starts(serve: type[Served], folder: Path) -> None:
    served = serve(folder, *ANY_PORTS, "--instances", 2)
    bundles.wait_until(lambda: servers_in(served.temporary) != [], served.process)
    assert served.end(signal.SIGTERM) == 143
    assert servers_in(served.temporary) == []
    assert list(served.temporary.iterdir()) == []


def test_a_damaged_bundle_is_not_served(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = bundles.copied(folder, tmp_path / "damaged")
    with (damaged / "fusion_head" / "1" / "model.onnx").open("r+b") as graph:
        graph.write(b"\xff")
    assert main(["serve", str(damaged), *ANY_PORTS]) == 1
    assert "fusion_head" in capsys.readouterr().err


def test_nothing_on_the_servers_command_line_opens_what_is_closed(single: TritonServer) -> None:
    """All users can read it, so it has no key to the model repository, shared memory, tracing and logging."""
    from tritonclient import grpc, http
    from tritonclient.utils import InferenceServerException

    assert single.http is not None
    read = Path(f"/proc/{single.pid}/cmdline").read_text().split("\0")
    given = dict(argument[2:].split("=", 1) for argument in read if argument.startswith("--"))
    assert given["model-control-mode"] == "poll"
    upload = {
        "config": '{"backend": "python", "name": "mine", "max_batch_size": 0}',
        "files": {"file:1/model.py": b"raise SystemExit"},
    }
    changes: list[Callable[[Any, dict[str, str]], Any]] = [
        lambda one, headers: one.unload_model("lrclr", headers=headers),
        lambda one, headers: one.load_model("lrclr", headers=headers),
        lambda one, headers: one.load_model("mine", headers=headers, **upload),
        lambda one, headers: one.get_model_repository_index(headers=headers),
        lambda one, headers: one.register_system_shared_memory("all", "/all", 64, headers=headers),
        lambda one, headers: one.get_system_shared_memory_status(headers=headers),
        lambda one, headers: one.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}, headers=headers),
        lambda one, headers: one.update_log_settings(settings={"log_verbose_level": 1}, headers=headers),
    ]
    for module, address, option, before in (
        (grpc, single.grpc, "grpc-restricted-protocol", "triton-grpc-protocol-"),
        (http, single.http, "http-restricted-api", ""),
    ):
        closed, _, key = given[option].partition(":")
        assert set(closed.split(",")) == {"model-repository", "shared-memory", "trace", "logging"}
        name, _, value = key.rpartition("=")
        client = module.InferenceServerClient(address)
        for change in changes:
            with pytest.raises(InferenceServerException, match="restricted"):
                change(client, {})
            # Client libraries do not send this header, or not in this form.
            with pytest.raises((InferenceServerException, TypeError, ValueError)):
                change(client, {before + name: value})
        client.close()
        header, content = (before + name).encode(), value.encode()
        if module is grpc:
            assert raw_requests.REFUSED in raw_requests.grpc_call(address, "LogSettings", b"other", b"x")
            assert b"grpc-status\x010" in raw_requests.grpc_call(address, "ServerLive", b"other", b"x")
            for form in (header, header.lower(), header.replace(b":", b""), header.replace(b" ", b"-")):
                answer = raw_requests.grpc_call(address, "LogSettings", form, content)
                assert b"grpc-status\x010" not in answer
                assert b"log_" not in answer
        else:
            assert b"200 OK" in raw_requests.http_get(address, "/v2/health/live", b"other: x")
            for line in (b"%s: %s", b"%s:%s", b"%s : %s", b"%s\r\n : %s", b"\\%s: %s", b'"%s": %s'):
                answer = raw_requests.http_get(address, "/v2/logging", line % (header, content))
                assert b"log_" not in answer
    with Client(single.grpc) as asking:
        assert len(asking.predict(sample_paths()[:1])) == 1


def test_tls(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost -keyout {key} -out {cert}".split(),
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with pytest.raises(UsageError, match="TLS cannot use"):
        ServeOptions(tls_cert=cert, tls_key=cert)
    # Relative paths: the server runs in a folder of its own.
    monkeypatch.chdir(tmp_path)
    cert, key = Path(cert.name), Path(key.name)
    options = ServeOptions(grpc_port=0, http=False, metrics=False, instances=1, tls_cert=cert, tls_key=key)
    with TritonServer(folder, options) as server:
        port = server.grpc.rpartition(":")[2]
        with Client(f"localhost:{port}", ClientOptions(tls_root=cert)) as client:
            assert len(client.predict(sample_paths()[:1])) == 1
        asked = ["--server", f"localhost:{port}", "--tls-root", str(cert)]
        assert main(["predict", str(sample_paths()[0]), *asked]) == 0
        assert main(["probe", f"localhost:{port}", *asked[2:]]) == 0
        # The certificate does not hold the address.
        assert main(["probe", f"127.0.0.1:{port}", "--timeout", "3", *asked[2:]]) == 1
        assert main(["probe", f"127.0.0.1:{port}", *asked[2:], "--tls-name", "localhost"]) == 0
        plain = ClientOptions(timeout=2, retries=1)
        with Client(f"localhost:{port}", plain) as client, pytest.raises(ServerUnavailableError):
            client.predict(sample_paths()[:1])


def test_predict_with_heat_maps_and_a_bad_file(
    folder: Path, tmp_path: Path, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"junk")
    results = {}
    images = [str(path) for path in (*sample_paths()[:3], bad)]
    for name, whose in (("there", ["--server", server.grpc]), ("here", ["-b", str(folder)])):
        heatmaps = tmp_path / name
        assert main(["predict", *images, *whose, "--csv", "--heatmap", str(heatmaps), "--batch-size", "1"]) == 1
        captured = capsys.readouterr()
        assert "bad.png" in captured.err
        results[name] = (captured.out, {path.name: path.read_bytes() for path in heatmaps.iterdir()})
    assert results["there"] == results["here"]
    assert len(results["here"][1]) == 3


def test_evaluate_by_a_server_gives_the_scores_of_the_bundle(
    folder: Path, tmp_path: Path, server: TritonServer
) -> None:
    images = [bundles.radiograph(tmp_path / f"{k}.png", seed=k) for k in range(12)]
    rows = [f"{path},test,{k % 2},{k % 3 % 2}" for k, path in enumerate(images)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["image,split,Edema,Pneumothorax", *rows]) + "\n")
    tables = []
    for name, whose in (("there.npz", ["--server", server.grpc]), ("here.npz", [])):
        data = [str(folder), str(manifest), "--split", "test"]
        assert main(["evaluate", *data, "--scores", str(tmp_path / name), *whose]) == 0
        tables.append(np.load(tmp_path / name, allow_pickle=False))
    there, here = tables
    assert there.files == here.files
    for name in there.files:
        if there[name].dtype.kind == "f":
            assert np.allclose(there[name], here[name], atol=1e-6, equal_nan=True), name


def test_a_server_of_another_bundle_is_not_evaluated(
    folder: Path, tmp_path: Path, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    other = bundles.copied(folder, tmp_path / "other")
    store(other, alpha=0.1, score_scale=5.0)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"image,split,Edema\n{sample_paths()[0]},test,1\n")
    assert main(["evaluate", str(other), str(manifest), "--server", server.grpc]) == 1
    assert "serves another bundle" in capsys.readouterr().err
