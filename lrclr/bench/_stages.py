"""From a case to its call. Inputs are prepared before; what is timed is what a user's program does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.contract import GRAPHS
from lrclr.engines import profiled
from lrclr.errors import UsageError
from lrclr.images import find_images, read_for_model
from lrclr.preprocessing import preprocess_batch
from lrclr.samples import sample_paths
from lrclr.text import Finding, FindingSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.bench._case import Case
    from lrclr.bench._closed import Work
    from lrclr.bench._targets import Target
    from lrclr.bundle import Golden
    from lrclr.engines import Operator

_PROFILED_RUNS = 4


@dataclass(frozen=True)
class Files:
    """Encoded images that the calls use in turn.

    Attributes:
        paths: the files; results do not contain them.
        contents: their bytes.
        exact: whether they are read in full; see `lrclr.images.read_for_model`.
        passed_over: counts of other entries of folders, by kind.
    """

    paths: tuple[Path, ...]
    contents: tuple[bytes, ...]
    exact: bool = False
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Sequence[Path] = (), *, exact: bool = False) -> Files:
        """These files and the images in these folders, or the sample radiographs as PNG.

        Raises:
            UsageError: a file cannot be read, or a folder holds no image.
        """
        found = find_images(paths)
        chosen = tuple(found.files) or sample_paths()
        try:
            return cls(chosen, tuple(path.read_bytes() for path in chosen), exact, dict(found.passed_over))
        except OSError as error:
            raise UsageError("a file to measure cannot be read", why=error.strerror) from error

    def describe(self) -> dict[str, Any]:
        """Number, kinds and mean size of the files, without names."""
        return {
            "files": len(self.paths),
            "kinds": sorted({path.suffix.lower().lstrip(".") or "none" for path in self.paths}),
            "mean_bytes": round(sum(map(len, self.contents)) / len(self.contents)),
            "passed_over": dict(self.passed_over),
        }


def findings_of(own: FindingSet, prompts: int) -> FindingSet | None:
    """Findings with that many prompts in total; None for the model's own.

    Additional findings have the names of the model's with numbers, so that all prompts differ.
    """
    if prompts == len(own.prompts):
        return None
    names = [
        name if turn == 0 else f"{name} {turn + 1}"
        for turn in range(1 + prompts // len(own.names))
        for name in own.names
    ]
    return FindingSet(tuple(Finding(name) for name in names[: prompts // 2]))


def work_of(case: Case, target: Target, files: Files, golden: Golden | None) -> Work:
    """The call of a case.

    Args:
        case: the case.
        target: the target.
        files: images for files and pixels.
        golden: golden data with the tokens of a server, whose tokenizer is not available here.

    Raises:
        LrclrError: the target cannot run the case.
    """
    if case.stage in {"classifier", "files"}:
        findings = findings_of(target.spec.findings, case.prompts)
        if case.stage == "files":
            return _file_work(case.batch, target, files, findings)
        pixels = _pixels(target, files, case.batch)
        return lambda _: target.predict_pixels(pixels, findings)
    inputs = _inputs(case, target, files, golden)
    run, graph = target.engine.run, str(case.stage)
    return lambda _: run(graph, inputs)


def operators_of(case: Case, target: Target, files: Files) -> tuple[Operator, ...]:
    """The operators that a target's engine runs for a graph; none for an engine that does not report them.

    Args:
        case: a case of one graph.
        target: the target.
        files: images for pixels.

    Raises:
        LrclrError: the engine failed.
    """
    engine = profiled(target.engine)
    if engine is None:
        return ()
    return engine.operators(case.stage, _inputs(case, target, files, None), _PROFILED_RUNS)


def _file_work(batch: int, target: Target, files: Files, findings: FindingSet | None) -> Work:
    count = len(files.paths)

    def work(number: int) -> object:
        places = [(number * batch + place) % count for place in range(batch)]
        return target.predict_files(
            [files.paths[place] for place in places],
            [files.contents[place] for place in places],
            findings,
            exact=files.exact,
        )

    return work


def _inputs(case: Case, target: Target, files: Files, golden: Golden | None) -> dict[str, NDArray[Any]]:
    """Inputs of one graph. Inputs that are outputs of other graphs are computed with the target's engine."""
    graph = GRAPHS[case.stage]
    tensors: dict[str, NDArray[Any]] = {}
    if case.batch:
        tensors["pixel_values"] = _pixels(target, files, case.batch)
    if case.prompts:
        tensors["input_ids"], tensors["text_mask"] = _tokens(case.prompts, target, golden)
    for earlier in GRAPHS.values():
        if set(earlier.output_names) & set(graph.input_names):
            tensors |= target.engine.run(earlier.name, {name: tensors[name] for name in earlier.input_names})
    return {name: tensors[name] for name in graph.input_names}


def _pixels(target: Target, files: Files, batch: int) -> NDArray[np.float32]:
    spec = target.spec.preprocess
    images = [read_for_model(content, spec, exact=files.exact) for content in files.contents[:batch]]
    pixels = preprocess_batch(images, target.spec.preprocess)
    return np.ascontiguousarray(pixels[np.arange(batch) % len(pixels)])


def _tokens(prompts: int, target: Target, golden: Golden | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token numbers and mask, each ``[P, T]``."""
    own = target.spec.findings
    if target.spec.tokenizer is not None:
        tokens = target.spec.tokenizer.encode((findings_of(own, prompts) or own).prompts)
        return tokens.input_ids, tokens.mask
    if golden is None:
        raise UsageError(
            "the tokens for the graphs of a server are not known",
            fix="Measure its bundle in the same run, or give it with --reference.",
        )
    mask = golden["text_mask"][: len(own.prompts)]
    ids = golden["input_ids"][: len(own.prompts), : int(mask.sum(1).max())]
    rows = np.arange(prompts) % len(ids)
    return np.ascontiguousarray(ids[rows]), np.ascontiguousarray(mask[rows, : ids.shape[1]])
