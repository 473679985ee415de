"""The results as a table in Markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["write_report"]

_GOALS = {"png": 2.5, "png 16 bit": 2.5, "jpeg": 2.5, "jpeg colour": 2.5, "dicom raw": 3, "dicom rle": 5}
_GOALS |= {"dicom jpeg 2000": 10}


def write_report(folder: Path) -> None:
    """Write ``table.md`` from what is measured in `folder`."""
    text = "\n".join([*_formats(folder), *_folder(folder), *_memory(folder)])
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    content: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return content


def _machine(result: dict[str, Any]) -> str:
    machine = result["environment"]
    isal = "with isal" if machine["isal"] else "without isal"
    clock = "processor time" if machine["clock"] == "process_time" else "wall time"
    return f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {isal}; {clock}"


def _formats(folder: Path) -> Iterator[str]:
    result = _read(folder / "formats.json")
    if result is None:
        return
    yield f"Machine: {_machine(result)}.\n"
    for recipe in [each for each in ("clip_224", "chexzero_224") if each in result]:
        columns = [f"{recipe}, 2048 × 2500", "baseline ms", "exact ms", "fast ms", "fast over baseline", "goal"]
        columns += ["fast over exact", "difference, mean / largest"]
        yield f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|"
        for name, one in result[recipe].items():
            times = " | ".join(f"{one['median_ms'][way]:.1f}" for way in ("baseline", "exact", "fast"))
            goal = f"{_GOALS[name]:g}" if name in _GOALS and recipe == "clip_224" else ""
            yield (
                f"| {name} | {times} | {_ratio(one['fast_over_baseline'])} | {goal} | {_ratio(one['fast_over_exact'])} "
                f"| {one['mean_difference']:.2f} / {one['largest_difference']:.1f} |"
            )
        yield ""
    worst = max(result.get("largest_difference_of_a_probability", {"not measured": float("nan")}).values())
    yield f"Largest difference of a probability, all formats and samples: {worst:.1e}.\n"


def _folder(folder: Path) -> Iterator[str]:
    result = _read(folder / "folder.json")
    if result is None:
        return
    yield f"| {result['folder']['files']} mixed files, images a second | decode | encode | both | of the slower |"
    yield "|---|---|---|---|---|"
    for name in ("a core each", "all cores for both"):
        one = result["folder"][name]
        speeds = " | ".join(f"{one['images_per_second'][each]:.1f}" for each in ("decode", "encode", "both"))
        yield f"| {name} | {speeds} | {_ratio(one['share_of_the_slower'])} |"
    yield ""


def _memory(folder: Path) -> Iterator[str]:
    result = _read(folder / "memory.json")
    if result is None:
        return
    resident = {int(number): size for number, size in result["memory"]["resident_mib_after"].items()}
    yield f"Resident memory over {result['memory']['files']} files of 250 × 205 pixels, in all formats, MiB after "
    yield ", ".join(f"{number}: {size:.0f}" for number, size in resident.items())


def _ratio(three: list[float]) -> str:
    middle, low, high = three
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"
