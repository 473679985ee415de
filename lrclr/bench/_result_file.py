"""Result files: JSON with a schema version."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins

from lrclr._records import json_content, record_from
from lrclr.bench._result import Measurement, Result
from lrclr.errors import UsageError

SCHEMA_VERSION: Final = 1
RESULT: Final = "bench.json"
_MAX_BYTES: Final = 1 << 30


def result_json(result: Result) -> str:
    """The whole result. A summary stands beside the samples of each case, for people; it is not read back."""
    # Some figures are scalars of NumPy.
    content = to_builtins(result, enc_hook=lambda value: value.item())
    for written, measurement in zip(content["measurements"], result.measurements, strict=True):
        written["summary"] = _summary(measurement)
    return json.dumps({"schema": SCHEMA_VERSION, **content}, indent=1, allow_nan=False) + "\n"


def result_from_json(text: str | bytes) -> Result:
    """Read what `result_json` wrote.

    Raises:
        UsageError: it is of another version, or not a result.
    """
    try:
        content = json_content(text)
        if not isinstance(content, dict) or "schema" not in content:
            raise ValueError("it has no schema version")
        version = content.pop("schema")
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"the result has schema version {version if isinstance(version, int) else 'unknown'}",
                why=f"this lrclr reads version {SCHEMA_VERSION}",
                fix="Measure again with `lrclr bench`.",
            )
        measurements = content.get("measurements")
        for each in measurements if isinstance(measurements, list) else ():
            if isinstance(each, dict):
                each.pop("summary", None)
        return record_from(content, Result)
    except ValueError as error:
        raise UsageError(
            "this is not a result of `lrclr bench`", why=str(error), fix=f"Give a {RESULT}, or its folder."
        ) from error


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a result file, or the one in a folder of reports.

    Raises:
        UsageError: the file cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file /= RESULT
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{file} is not a result of `lrclr bench`", why="it is larger than a result can be")
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read a result at {file}", why=error.strerror) from error
    return result_from_json(content)


def _summary(measurement: Measurement) -> dict[str, Any]:
    return {
        "latency_ms": {name: round(value, 4) for name, value in measurement.quantiles_ms.items()},
        "throughput": asdict(measurement.throughput),
        "unit": f"{measurement.case.unit} a second",
        "verdict": "stable" if measurement.stable else "saturated" if measurement.saturated else "unstable",
        "spread_of_rounds": round(measurement.spread, 4),
    }
