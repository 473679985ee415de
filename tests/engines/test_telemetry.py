"""Importing the engine writes no identifier to disk and sends no telemetry."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = (
    "import os, lrclr; from lrclr import OnnxRuntimeEngine; OnnxRuntimeEngine({}); "
    "print(os.environ['ORT_DISABLE_TELEMETRY'])"
)


def imported(folder: Path, **changes: str) -> tuple[str, list[str]]:
    """The value of the switch in a process that imported the engine, and its temporary files."""
    environment = bundles.environment(TMPDIR=str(folder), HOME=str(folder))
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [bundles.PYTHON, "-c", SCRIPT], capture_output=True, text=True, check=True, env={**environment, **changes}
    )
    return done.stdout.strip(), [path.name for path in folder.iterdir()]


def test_no_files_are_written_and_telemetry_is_off(tmp_path: Path) -> None:
    assert imported(tmp_path) == ("1", [])


def test_a_setting_of_the_user_is_kept(tmp_path: Path) -> None:
    assert imported(tmp_path, ORT_DISABLE_TELEMETRY="0")[0] == "0"
