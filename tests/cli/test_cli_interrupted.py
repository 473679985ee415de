"""An export that is stopped by a signal or a full disk leaves the previous bundle complete."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from lrclr import Bundle
from lrclr.cli import main
from tests import bundles
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from pathlib import Path


def staging_folders(folder: Path) -> list[Path]:
    return list(folder.glob(".*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_only_the_old_bundle(
    number: signal.Signals, code: int, checkpoint_folder: Path, bundle: Path, tmp_path: Path
) -> None:
    target = bundles.copied(bundle, tmp_path / "bundle")
    before = bundles.digests(target)
    command = [*bundles.LRCLR, "export", str(checkpoint_folder), "-o", str(target), "--fp16"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bundles.wait_until(lambda: any(folder.iterdir() for folder in staging_folders(tmp_path)), process)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("error: ")
    assert bundles.digests(target) == before
    assert staging_folders(tmp_path) == []
    Bundle(target)


def test_a_full_disk_leaves_only_the_old_bundle(
    checkpoint_folder: Path,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = bundles.copied(bundle, tmp_path / "bundle")
    before = bundles.digests(target)
    with exporting_once(), bundles.no_large_files():
        code = main(["export", str(checkpoint_folder), "-o", str(target), "--fp32"])
    assert code == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "could not be written" in line
    assert "What was there before is unchanged" in line
    assert bundles.digests(target) == before
    assert staging_folders(tmp_path) == []


UNSHARE = ("unshare", "--mount", "sh", "-c")
IN_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=30m tmpfs "$1"
cp -r "$2" "$1/bundle"
code=0; "$4" -c "$5" export "$3" -o "$1/bundle" --fp32 || code=$?
"$4" -c "$5" verify "$1/bundle" --json > /dev/null
ls -A "$1"
exit $code
"""


@pytest.mark.slow
def test_a_really_full_file_system_leaves_the_old_bundle(checkpoint_folder: Path, bundle: Path, tmp_path: Path) -> None:
    """A file system with room for one and a half bundles. It disappears with the test's own mount namespace."""
    size = sum(path.stat().st_size for path in bundle.rglob("*"))
    assert 15e6 < size < 30 * 2**20 < 1.9 * size
    (tmp_path / "disk").mkdir()
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, "mount -t tmpfs tmpfs /mnt"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this machine allows no mounts")
    python, _, program = bundles.LRCLR
    done = subprocess.run(
        [*UNSHARE, IN_A_SMALL_DISK, "sh", str(tmp_path / "disk"), str(bundle), str(checkpoint_folder), python, program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be written: No space left on device" in line
    assert done.stdout.split() == ["bundle"]
