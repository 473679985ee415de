"""A JSON file that holds every measurement as soon as it is made, so that a later failure loses none."""

from __future__ import annotations

import json
import subprocess
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from lrclr._files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Record", "nvidia_smi"]

_GPU_FIELDS: Final = (
    "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,"
    "temperature.gpu,persistence_mode,compute_mode,mig.mode.current"
)


class Record:
    """Measurements of one command, in a JSON file.

    Args:
        path: the file; its folder is made.
        header: description of all measurements, such as the device. It starts a new file; without it, the existing
            file is continued.
    """

    def __init__(self, path: Path, header: dict[str, Any] | None = None) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._content: dict[str, Any] = (
            json.loads(path.read_text()) if header is None else {**header, "measurements": []}
        )
        self._write()

    @property
    def failed(self) -> list[str]:
        """Names of the measurements that failed."""
        return [one["name"] for one in self._content["measurements"] if "error" in one]

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """Run `work`, and store its result or the text of its error.

        Returns:
            The result; None where it failed.
        """
        began = time.perf_counter()
        try:
            result = work()
            entry = {"result": result}
        except Exception as error:  # noqa: BLE001 - the next measurement may succeed
            result = None
            entry = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc().splitlines()[-8:]}
        self._add(name, entry, time.perf_counter() - began)
        return result

    def fail(self, name: str, error: str) -> None:
        """Store that a measurement could not be made."""
        self._add(name, {"error": error}, 0.0)

    def _add(self, name: str, entry: dict[str, Any], seconds: float) -> None:
        self._content["measurements"].append({"name": name, "seconds": round(seconds, 3), **entry})
        self._write()
        outcome = entry["error"] if "error" in entry else json.dumps(entry.get("result"))
        print(f"{seconds:7.2f} s  {name}: {outcome[:160]}", flush=True)

    def _write(self) -> None:
        write_whole(self._path, f"{json.dumps(self._content, indent=1)}\n".encode())


def nvidia_smi() -> list[dict[str, str]]:
    """Name, driver, memory, clocks, power and modes of each GPU, as nvidia-smi prints them."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return [dict(zip(_GPU_FIELDS.split(","), line.split(", "), strict=False)) for line in answer.stdout.splitlines()]
