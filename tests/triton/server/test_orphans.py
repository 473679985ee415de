"""No process and no file of a server outlives `lrclr serve`. What could not be removed is removed at the next start."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from lrclr.errors import ServerError
from lrclr.triton.server import ServeOptions, TritonServer

# Private: files that a server leaves can be created here without a server.
from lrclr.triton.server._ports import free_ports
from lrclr.triton.server._shared_memory import Claim, remove_leftovers
from tests import bundles
from tests.triton.server.test_serve import ANY_PORTS, Served, serve, servers_in, shared_memory

__all__ = ["serve"]


def nothing_left(served: Served) -> bool:
    left = [*servers_in(served.temporary), *shared_memory(served.process.pid)]
    return not left and not any(served.temporary.glob("lrclr-*"))


def guard_of(served: Served) -> int:
    children = Path(f"/proc/{served.process.pid}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    (guard,) = [pid for pid in pids if b"_guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return guard


@pytest.mark.triton
def test_sigkill_leaves_nothing(serve: type[Served], folder: Path) -> None:
    served = serve(folder, *ANY_PORTS, "--instances", 2)
    served.grpc()
    backends = [line for line in servers_in(served.temporary) if "stub" in line]
    assert len(backends) == 5
    assert shared_memory(served.process.pid)
    served.end(signal.SIGKILL)
    bundles.wait_until(lambda: nothing_left(served))


@pytest.mark.triton
def test_a_server_that_lost_its_guard_too_is_named_and_its_leftovers_removed_once_it_is_gone(
    serve: type[Served], folder: Path, tmp_path: Path
) -> None:
    served = serve(folder, *ANY_PORTS, "--instances", 1)
    port = served.grpc().rpartition(":")[2]
    guard = guard_of(served)
    os.kill(guard, signal.SIGKILL)
    served.end(signal.SIGKILL)
    arguments = ["serve", folder, "--grpc-port", port, "--http-port", "0", "--metrics-port", "0"]
    done = bundles.run(arguments, env=bundles.environment(TMPDIR=str(tmp_path)))
    assert done.returncode == 1
    found = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"cannot listen on 127.0.0.1 port {port}" in found
    assert "(tritonserver) listens there" in found
    orphan = int(found.partition("process ")[2].split()[0])
    assert Path(f"/proc/{orphan}/comm").read_text().strip() == "tritonserver"
    # It may be in use, so it and the files that it needs are not touched.
    assert len(list(served.temporary.glob("lrclr-*"))) == 1
    os.killpg(guard, signal.SIGKILL)
    bundles.wait_until(lambda: not servers_in(served.temporary))

    def removed() -> bool:
        remove_leftovers()
        return nothing_left(served)

    bundles.wait_until(removed)


@pytest.mark.triton
def test_an_interrupt_while_another_thread_begins_to_start_the_server_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal hits after the thread has begun, and before the caller can wait for it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = TritonServer(folder, ServeOptions(grpc_port=0, http=False, metrics=False))
    start, before, others = threading.Thread.start, set(threading.enumerate()), shared_memory(os.getpid())

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if threading.current_thread() is threading.main_thread():
            bundles.wait_until(lambda: shared_memory(os.getpid()) > others)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.start()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert shared_memory(os.getpid()) == others
    assert list(tmp_path.iterdir()) == []


def test_only_what_nobody_holds_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    claim = Claim.make()
    region = Path("/dev/shm", f"{claim.prefix}_region")
    region.write_bytes(b"a request")
    remove_leftovers()
    assert region.exists()
    assert claim.folder.is_dir()
    # A process that inherits the descriptor also holds the lock.
    other = os.dup(claim.descriptor)
    os.close(claim.descriptor)
    remove_leftovers()
    assert region.exists()
    os.close(other)
    remove_leftovers()
    assert list(Path("/dev/shm").glob(f"{claim.prefix}*")) == []
    assert list(tmp_path.iterdir()) == []


def test_a_forged_record_removes_no_other_folder(tmp_path: Path) -> None:
    precious, place = tmp_path / "precious", Path("/dev/shm")
    precious.mkdir()
    forged = place / f"lrclr_{os.getpid()}_00000000.owner"
    forged.write_text(str(precious))
    link = place / f"lrclr_{os.getpid()}_00000001.owner"
    (tmp_path / "record").write_text(str(precious))
    link.symlink_to(tmp_path / "record")
    try:
        remove_leftovers()
        assert precious.is_dir()
        assert not forged.exists()
        assert link.is_symlink()
    finally:
        link.unlink()
        forged.unlink(missing_ok=True)


def test_who_holds_a_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"process {os.getpid()} \(.+\) listens there.* End that process, or"):
            free_ports("127.0.0.1", [port])
