"""An export that is stopped in its middle, by a signal or a full disk: the bundle that was there stays whole."""

from __future__ import annotations

import resource
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from lrclr import Bundle
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


def staging_folders(folder: Path) -> list[Path]:
    return list(folder.glob(".*.partial"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_old_bundle_and_nothing_else(
    number: signal.Signals, code: int, checkpoint_folder: Path, bundle: Path, tmp_path: Path
) -> None:
    target = bundles.copied(bundle, tmp_path / "bundle")
    before = bundles.digests(target)
    command = [*bundles.LRCLR, "export", str(checkpoint_folder), "-o", str(target), "--fp16"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bundles.wait_until(lambda: any(folder.iterdir() for folder in staging_folders(tmp_path)), process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("error: ")
    assert bundles.digests(target) == before
    assert staging_folders(tmp_path) == []
    Bundle(target)


def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(
    checkpoint_folder: Path, bundle: Path, tmp_path: Path
) -> None:
    target = bundles.copied(bundle, tmp_path / "bundle")
    before = bundles.digests(target)

    def no_large_files() -> None:
        # What a full disk does, without one: the kernel refuses the write that goes beyond.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = bundles.run(["export", checkpoint_folder, "-o", target, "--fp32"], preexec_fn=no_large_files)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be written" in line
    assert "What was there before is unchanged" in line
    assert bundles.digests(target) == before
    assert staging_folders(tmp_path) == []
