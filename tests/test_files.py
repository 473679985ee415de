"""Folders are written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

# Private: helpers that several packages share, without public names.
from lrclr import _files
from lrclr._files import replace_directory, sha256_of, write_whole
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("a.txt", "b")


def contents(folder: Path) -> dict[str, str]:
    """All files under `folder`, including hidden and left-over files."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(target: Path, text: str, *, overwrite: bool = True) -> None:
    with replace_directory(target, expected=NAMES, overwrite=overwrite) as staging:
        (staging / "a.txt").write_text(text)
        (staging / "b").mkdir()
        (staging / "b" / "c.txt").write_text(text * 2)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder with an older version."""
    write(tmp_path / "target", "old")
    return tmp_path / "target"


OLD = {"target/a.txt": "old", "target/b/c.txt": "oldold"}
NEW = {"target/a.txt": "new", "target/b/c.txt": "newnew"}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_new_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    write(tmp_path / "some" / "where" / "target", "new", overwrite=False)
    assert contents(tmp_path / "some" / "where") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["some"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    write(tmp_path / "target", "new", overwrite=False)
    assert contents(tmp_path) == NEW


def test_the_old_folder_is_complete_until_the_block_ends(target: Path) -> None:
    with replace_directory(target, expected=NAMES, overwrite=True) as staging:
        (staging / "a.txt").write_text("new")
        assert target.joinpath("a.txt").read_text() == "old"
        assert target.joinpath("b", "c.txt").read_text() == "oldold"
    assert contents(target.parent) == {"target/a.txt": "new"}


def test_the_folder_exists_at_every_moment(target: Path) -> None:
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                seen.add((target / "a.txt").read_text())
            except OSError as error:
                seen.add(repr(error))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(30):
            write(target, "new")
    finally:
        stop.set()
        watcher.join()
    assert seen <= {"old", "new"}


def test_a_relative_path_is_resolved_at_the_start(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(target.parent)
    with replace_directory(Path("target"), expected=NAMES, overwrite=True) as staging:
        (staging / "a.txt").write_text("new")
        monkeypatch.chdir("/")
    assert contents(target.parent) == {"target/a.txt": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, FileNotFoundError])
def test_an_error_leaves_the_old_folder(target: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with replace_directory(target, expected=NAMES, overwrite=True) as staging:
            (staging / "a.txt").write_text("new")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        fail()
    assert contents(target.parent) == OLD


@contextlib.contextmanager
def writing(target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write the folder and goes on until it is stopped."""
    code = """
        import sys, time
        from pathlib import Path
        from lrclr._files import replace_directory
        with replace_directory(Path(sys.argv[1]), expected=("a.txt", "b"), overwrite=True) as staging:
            (staging / "a.txt").write_text("new")
            print("ready", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


def partial_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))


@pytest.mark.parametrize("exists", [True, False])
def test_sigterm_leaves_no_temporary_files(tmp_path: Path, *, exists: bool) -> None:
    if exists:
        write(tmp_path / "target", "old")
    with writing(tmp_path / "target") as child:
        assert partial_folders(tmp_path)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 128 + signal.SIGTERM
    assert contents(tmp_path) == (OLD if exists else {})
    assert [path.name for path in tmp_path.iterdir()] == (["target"] if exists else [])


def test_what_a_killed_process_left_is_removed_by_the_next(target: Path) -> None:
    folder = target.parent
    # Of other targets, and of none: they are not looked at.
    others = [
        ".target.partial",
        ".target.more.01234567.partial",
        ".targets.01234567.partial",
        ".target.01234567.partial",
    ]
    for name in others:
        (folder / name).mkdir()
    with writing(target) as killed, writing(target):
        killed.kill()
        killed.wait()
        left = partial_folders(folder)
        assert len(left) == len(others) + 2
        write(target, "new")
        # That of the running process remains.
        assert len(set(left) - set(partial_folders(folder))) == 1
        assert {*others} < {*partial_folders(folder)}
    write(target, "newer")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*others, "target"])


def test_without_locks_nothing_is_removed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def give_up() -> None:
        with replace_directory(target, expected=NAMES, overwrite=True):
            raise KeyError

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with replace_directory(target, expected=NAMES, overwrite=True) as staging:
        (staging / "a.txt").write_text("slower")
        monkeypatch.undo()
        with pytest.raises(KeyError):
            give_up()
    assert contents(target.parent) == {"target/a.txt": "slower"}


def test_the_handler_of_sigterm_is_restored(target: Path) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    write(target, "new")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    for handler in (signal.SIG_IGN, lambda *_: None):
        signal.signal(signal.SIGTERM, handler)
        try:
            with replace_directory(target, expected=NAMES, overwrite=True):
                assert signal.getsignal(signal.SIGTERM) is handler
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_another_thread_can_write(target: Path) -> None:
    worker = threading.Thread(target=write, args=(target, "new"))
    worker.start()
    worker.join()
    assert contents(target.parent) == NEW


def test_an_existing_folder_needs_overwrite(target: Path) -> None:
    with pytest.raises(UsageError, match=r"exists already.*--overwrite"):
        write(target, "new", overwrite=False)
    assert contents(target.parent) == OLD


@pytest.mark.parametrize("overwrite", [True, False])
def test_foreign_files_are_not_deleted(target: Path, *, overwrite: bool) -> None:
    for number in range(5):
        (target / f"thesis-{number}.txt").write_text("work")
    with pytest.raises(UsageError, match=r"did not write all of it \(thesis-0.txt, thesis-1.txt, thesis-2.txt, …\)"):
        write(target, "new", overwrite=overwrite)
    assert len(contents(target.parent)) == 7


def test_a_file_that_appears_while_the_block_runs_is_kept(target: Path) -> None:
    def race() -> None:
        with replace_directory(target, expected=NAMES, overwrite=True) as staging:
            (staging / "a.txt").write_text("new")
            (target / "thesis.txt").write_text("work")

    with pytest.raises(UsageError, match=r"thesis\.txt"):
        race()
    assert contents(target.parent) == OLD | {"target/thesis.txt": "work"}


def test_a_folder_of_a_faster_process_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def race() -> None:
        with replace_directory(target, expected=NAMES, overwrite=False) as staging:
            (staging / "a.txt").write_text("new")
            write(target, "old")

    with pytest.raises(UsageError, match="exists already"):
        race()
    assert contents(tmp_path) == OLD


def test_a_mount_point_is_refused_before_the_work() -> None:
    """A volume of a container: it cannot be renamed."""
    with pytest.raises(UsageError, match=r"is a mount point, .*\. Give a folder below it: /proc/"):
        write(Path("/proc"), "new")


def test_a_link_is_not_followed(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target)
    with pytest.raises(UsageError, match="it is a link"):
        write(link, "new")
    link.unlink()
    assert contents(target.parent) == OLD


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("work")
    with pytest.raises(UsageError, match="is not a folder"):
        write(tmp_path / "target", "new")
    assert contents(tmp_path) == {"target": "work"}


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("work")
    with pytest.raises(LrclrError, match="could not be written"):
        write(tmp_path / "file" / "target", "new")


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    os.umask(mask)
    with replace_directory(tmp_path / "target", expected=NAMES, overwrite=True) as staging:
        (staging / "a.txt").write_text("new")
        (staging / "a.txt").chmod(0o600)
        (staging / "b").mkdir(mode=0o700)
        (staging / "b" / "run").write_text("new")
        (staging / "b" / "run").chmod(0o700)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "target").rglob("*")}
    assert modes == {"a.txt": file, "b": folder, "run": folder}
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == folder


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, *, exists: bool) -> None:
    # A limit on the file size needs no privileges, and fails inside write() like a full disk.
    if exists:
        write(tmp_path / "target", "old")
    code = """
        import resource, sys
        from pathlib import Path
        from lrclr._files import replace_directory
        from lrclr.errors import LrclrError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with replace_directory(Path(sys.argv[1]), expected=("a.txt", "b"), overwrite=True) as staging:
                (staging / "a.txt").write_text("new")
                (staging / "large").write_bytes(bytes(1_000_000))
        except LrclrError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (
        done.stdout == f"{tmp_path}/target could not be written: File too large. What was there before is unchanged.\n"
    )
    assert contents(tmp_path) == (OLD if exists else {})
    assert [path.name for path in tmp_path.iterdir()] == (["target"] if exists else [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["block", "fsync"])
def test_a_full_disk_is_reported(target: Path, number: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def attempt() -> None:
        with replace_directory(target, expected=NAMES, overwrite=True) as staging:
            (staging / "a.txt").write_text("new")
            if where == "block":
                full()

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LrclrError, match=os.strerror(number)):
        attempt()
    assert contents(target.parent) == OLD


@pytest.mark.parametrize("step", [1, 2])
def test_a_full_disk_is_reported_by_numpy(target: Path, step: int) -> None:
    """NumPy's error has no number."""

    def attempt() -> None:
        with (
            replace_directory(target, expected=NAMES, overwrite=True),
            Path("/dev/full").open("wb") as full,
        ):
            np.zeros(100_000)[::step].tofile(full)

    with pytest.raises(LrclrError, match=r"could not be written: .*the disk is probably full \([\d.]+ MiB are free\)"):
        attempt()
    assert contents(target.parent) == OLD


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a file system that cannot swap two folders in one step."""
    monkeypatch.setattr(_files, "_renameat2_exchange", lambda one, other: False)


def test_renameat2_reports_failure(tmp_path: Path) -> None:
    assert not _files._renameat2_exchange(tmp_path / "not", tmp_path / "there")


@pytest.mark.usefixtures("no_exchange")
def test_without_exchange_the_folder_is_replaced(target: Path) -> None:
    write(target, "new")
    assert contents(target.parent) == NEW
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "busy"), KeyboardInterrupt()])
def test_without_exchange_an_error_restores_the_old_folder(
    target: Path, failing: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Path.rename, 0

    def rename(self: Path, to: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise error
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((LrclrError, KeyboardInterrupt)):
        write(target, "new")
    assert contents(target.parent) == OLD
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_two_writers_leave_one_complete_folder(target: Path) -> None:
    messages = []

    def repeat(text: str) -> None:
        for _ in range(20):
            try:
                write(target, text)
            except LrclrError as error:
                messages.append(str(error))
            time.sleep(0.001)

    workers = [threading.Thread(target=repeat, args=(text,)) for text in ("old", "new")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert contents(target.parent) in (OLD, NEW)
    assert len(messages) < 40
    assert all("changed by another process meanwhile" in text for text in messages)


@pytest.mark.parametrize("exists", [True, False])
def test_of_two_simultaneous_writers_the_second_to_finish_is_refused(tmp_path: Path, *, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        write(target, "old")

    def slower() -> None:
        with replace_directory(target, expected=NAMES, overwrite=True) as staging:
            (staging / "a.txt").write_text("slower")
            write(target, "new")

    with pytest.raises(LrclrError, match=r"changed by another process meanwhile\. The other process's result is"):
        slower()
    assert contents(tmp_path) == NEW


def test_a_path_that_is_not_a_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("folder", "pipe", "link", "/dev/null", ".", ".."):
        with pytest.raises(UsageError, match="exists and is not a file"):
            write_whole(Path(name), b"content")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]
