"""Files of scores: numbers, lines of a dataset and hashes of images, without paths, reports or pseudonyms."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr._files import os_reason, write_whole
from lrclr._zip import checked_entries
from lrclr.errors import UsageError
from lrclr.evaluation._scores import ModelAnswers, Scores
from lrclr.inference import Answers

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

_SCHEMA = 2
_ONE_SCALE = 1  # with a score scale for all findings, and no bias
_MOST_BYTES = 1 << 30  # of all arrays, unpacked
_ARRAYS = ("line", "image", "group", "labels", "sizes")
_INFO = {
    "kind": str,
    "sha256": str,
    "checkpoint_sha256": str,
    "precision": str,
    "engine": str,
    "fusion_trained": bool,
    "exact": bool,
    "alpha": float,
    "score_scale": float,
    "patch_size": int,
    "preprocess": dict,
}


def is_scores(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of a file of scores."""
    return Path(path).suffix == ".npz"


def save_scores(scores: Scores, path: str | os.PathLike[str]) -> None:
    """Write scores to an ``.npz``, whole or not at all; the same scores give the same bytes."""
    arrays: dict[str, Any] = {name: getattr(scores, name) for name in _ARRAYS}
    for number, model in enumerate(scores.models):
        for name in Answers.names():
            arrays[f"{number}.{name}"] = getattr(model.answers, name)
    about = {
        "schema": _SCHEMA,
        "findings": scores.findings,
        "failures": scores.failures,
        "models": [model.info for model in scores.models],
        "alpha": scores.alpha,
        "calibration": scores.calibration.tolist(),
    }
    arrays["about"] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(Path(path), content.getvalue())


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read a file that `save_scores` wrote. Pickled content is refused.

    Raises:
        UsageError: the file cannot be read, or is not a file of scores.
    """
    try:
        with Path(path).open("rb") as file:
            checked_entries(file, most_bytes=_MOST_BYTES)
            file.seek(0)
            stored = np.load(file, allow_pickle=False)
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(arrays.pop("about").tobytes())
        scores = _scores(about, arrays)
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=os_reason(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is not a file of scores", why="it is damaged or of another version", fix="Write it with --scores."
        ) from error
    return scores


def _scores(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Scores:
    if about["schema"] not in (_ONE_SCALE, _SCHEMA) or not about["models"]:
        raise ValueError
    findings = tuple(map(str, about["findings"]))
    one = about["schema"] == _ONE_SCALE
    calibration = [[about["score_scale"], 0.0]] * len(findings) if one else about["calibration"]
    scores = Scores(
        findings=findings,
        **{name: arrays[name] for name in _ARRAYS},
        failures=tuple((int(line), str(reason)) for line, reason in about["failures"]),
        models=tuple(
            ModelAnswers(info, Answers(**{name: arrays[f"{number}.{name}"] for name in Answers.names()}))
            for number, info in enumerate(about["models"])
        ),
        alpha=float(about["alpha"]),
        calibration=np.array(calibration, np.float64),
    )
    _check(scores)
    return scores


def _check(scores: Scores) -> None:
    """Raise ValueError if the arrays do not fit each other: the file is not trusted."""
    images, findings = len(scores.line), len(scores.findings)
    shapes: list[tuple[NDArray[Any], tuple[int, ...]]] = [
        (scores.line, (images,)),
        (scores.image, (images,)),
        (scores.group, (images,)),
        (scores.labels, (images, findings)),
        (scores.sizes, (images, 2)),
        (scores.calibration, (len(scores.models), findings, 2) if scores.calibration.ndim == 3 else (findings, 2)),
    ]
    for model in scores.models:
        for key, kind in _INFO.items():
            if not isinstance(model.info[key], kind):
                raise TypeError(key)
        regions = model.answers.region_index.shape[1]
        for name in Answers.names():
            last = {
                "region_attention": (findings, regions),
                "region_index": (regions,),
                "region_importance": (regions,),
            }
            array = getattr(model.answers, name)
            shapes.append((array, (images, *last.get(name, (findings,)))))
            if not np.isfinite(array).all():
                raise ValueError(name)
    if images == 0 or any(array.shape != shape for array, shape in shapes):
        raise ValueError
    if not np.isfinite(scores.calibration).all() or not (scores.calibration[..., 0] > 0).all():
        raise ValueError
    numbers = np.unique(scores.group)
    if not np.array_equal(numbers, np.arange(len(numbers))) or not set(np.unique(scores.labels)) <= {-2, -1, 0, 1}:
        raise ValueError
