"""The engine keeps no identifier on disk and sends no telemetry."""

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
    """What the switch is in a process that imported the engine, and the temporary files that it left."""
    environment = bundles.environment(TMPDIR=str(folder), HOME=str(folder))
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [bundles.PYTHON, "-c", SCRIPT], capture_output=True, text=True, check=True, env={**environment, **changes}
    )
    return done.stdout.strip(), [path.name for path in folder.iterdir()]


def test_nothing_is_kept_or_told(tmp_path: Path) -> None:
    assert imported(tmp_path) == ("1", [])


def test_who_sets_the_switch_is_obeyed(tmp_path: Path) -> None:
    assert imported(tmp_path, ORT_DISABLE_TELEMETRY="0")[0] == "0"
