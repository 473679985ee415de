"""Results in files: JSON with a schema version, read back strictly."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lrclr.bench._case import STAGES, Case
from lrclr.bench._nvml import GpuUse
from lrclr.bench._result import Measurement, Peak, Quality, Result, Round, Search, TargetInfo
from lrclr.bench._use import Use
from lrclr.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["RESULT", "SCHEMA_VERSION", "load_result", "result_from_json", "result_json"]

SCHEMA_VERSION: Final = 1
RESULT: Final = "bench.json"
_MAX_BYTES: Final = 1 << 30


def result_json(result: Result) -> str:
    """The whole result; beside each case's samples stands a summary, which nobody reads back."""
    content = asdict(result)
    for written, measurement in zip(content["measurements"], result.measurements, strict=True):
        written["summary"] = _summary(measurement)
    return json.dumps({"schema": SCHEMA_VERSION, **content}, indent=1, allow_nan=False) + "\n"


def result_from_json(text: str) -> Result:
    """Read what `result_json` wrote.

    Raises:
        UsageError: it is of another version, or no result.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused("it is not JSON") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise _refused("it has no schema version")
    if content["schema"] != SCHEMA_VERSION:
        raise UsageError(
            f"the result has schema version {str(content['schema'])[:20]}",
            why=f"this lrclr reads version {SCHEMA_VERSION}",
            fix="Measure again with `lrclr bench`.",
        )
    try:
        return _result(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _refused("its content is not what `lrclr bench` writes") from error


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a result file, or the one in a folder of reports.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file /= RESULT
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise _refused(f"{file} is larger than a result can be")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _refused("it is not UTF-8 text") from error
    except OSError as error:
        raise UsageError(f"there is no result at {file}", why=error.strerror) from error
    return result_from_json(text)


def _summary(measurement: Measurement) -> dict[str, Any]:
    return {
        "latency_ms": {name: round(value, 4) for name, value in measurement.quantiles_ms.items()},
        "throughput": asdict(measurement.throughput),
        "unit": f"{measurement.case.unit} a second",
        "verdict": "stable" if measurement.stable else "saturated" if measurement.saturated else "unstable",
        "spread_of_rounds": round(measurement.spread, 4),
    }


def _result(content: dict[str, Any]) -> Result:
    def tuple_of(key: str, make: Callable[[Any], Any]) -> Any:
        return tuple(make(each) for each in content[key])

    return Result(
        environment=_dict(content["environment"]),
        settings=_dict(content["settings"]),
        targets=tuple_of("targets", _target),
        measurements=tuple_of("measurements", _measurement),
        searches=tuple_of("searches", _search),
        peaks=tuple_of("peaks", lambda each: _made(Peak, each)),
        bandwidth_gbs=content["bandwidth_gbs"],
        left_out=tuple_of("left_out", lambda each: (str(each[0]), str(each[1]))),
        complete=bool(content["complete"]),
    )


def _made(kind: type[Any], content: dict[str, Any], **changes: Any) -> Any:
    """A dataclass from its own fields, neither more nor fewer."""
    if content.keys() != {each.name for each in fields(kind)}:
        raise ValueError(f"fields of {kind.__name__} differ")
    return kind(**{**content, **changes})


def _target(content: dict[str, Any]) -> TargetInfo:
    quality = content["quality"]
    made: TargetInfo = _made(
        TargetInfo, content, quality=_made(Quality, quality, refused=tuple(map(str, quality["refused"])))
    )
    return made


def _measurement(content: dict[str, Any]) -> Measurement:
    kept = {key: value for key, value in content.items() if key != "summary"}
    rounds = tuple(map(_round, content["rounds"]))
    if not rounds:
        raise ValueError("no rounds")
    made: Measurement = _made(
        Measurement, kept, case=_case(content["case"]), warmup_us=tuple(content["warmup_us"]), rounds=rounds
    )
    return made


def _round(content: dict[str, Any]) -> Round:
    latencies = tuple(map(float, content["latency_us"]))
    if not latencies or not all(math.isfinite(each) and each > 0 for each in latencies) or content["seconds"] <= 0:
        raise ValueError("no latencies")
    use = content["use"]
    gpu = None if use["gpu"] is None else _made(GpuUse, use["gpu"])
    made: Round = _made(Round, content, latency_us=latencies, use=_made(Use, use, gpu=gpu))
    return made


def _case(content: dict[str, Any]) -> Case:
    made: Case = _made(Case, content)
    if made.stage not in STAGES:
        raise ValueError("no such stage")
    return made


def _search(content: dict[str, Any]) -> Search:
    trials = tuple((float(rate), p99, bool(held)) for rate, p99, held in content["trials"])
    made: Search = _made(Search, content, case=_case(content["case"]), trials=trials)
    return made


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


def _refused(why: str) -> UsageError:
    return UsageError("this is no result of `lrclr bench`", why=why)
