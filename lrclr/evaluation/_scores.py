"""Answers of one or more models for the images of a dataset. Images are known by line and file hash only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from lrclr._prefetch import batches_ahead
from lrclr.budget import reading
from lrclr.datasets import SKIP, RowProblem, check_places, raise_bad_rows
from lrclr.datasets._rows import without_name
from lrclr.errors import LrclrError, UsageError
from lrclr.images import ReadLimits, read_for_model
from lrclr.images._source import read_bytes
from lrclr.inference import Answers
from lrclr.inference._scores import logistic
from lrclr.preprocessing import preprocess
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.inference import ModelSpec, ZeroShotClassifier
    from lrclr.preprocessing import PreprocessSpec
    from lrclr.text import FindingSet

NOT_STATED = -2
_LIMITS = ReadLimits()
_SHARED = ("preprocess", "exact", "patch_size", "alpha")


@dataclass(frozen=True)
class ModelAnswers:
    """Answers of one model.

    Attributes:
        info: kind, hashes, precision, engine, scoring, preprocessing, and whether images were read in full, in JSON's
            types.
        answers: answers for N images and F findings; the probabilities are not used.
    """

    info: dict[str, Any]
    answers: Answers

    def gap(self, alpha: float) -> NDArray[np.float64]:
        """``[N, F]``: combined score of the positive prompts minus that of the negative ones."""
        answers = self.answers
        global_ = answers.global_positive.astype(np.float64) - answers.global_negative
        if alpha == 0.0:
            return global_
        local = answers.local_positive.astype(np.float64) - answers.local_negative
        return (1.0 - alpha) * global_ + alpha * local


@dataclass(frozen=True)
class Scores:
    """Answers of one model, or of an ensemble with its mean probability, and the labels.

    Attributes:
        findings: F names.
        line: ``[N]``, lines of the images in their dataset.
        image: ``[N]``, hash of each image's file, and of the frame if one is given.
        group: ``[N]``, number of the patient, from 0.
        labels: ``[N, F]``: 1 present, 0 absent, -1 uncertain, -2 not stated.
        sizes: ``[N, 2]``, height and width of the original images.
        failures: line and reason of each unreadable image.
        models: answers of the model, or of the members of an ensemble.
        alpha: weight of the local score in effect.
        calibration: ``[F, 2]``, scale and bias of each finding in effect; ``[M, F, 2]`` of an ensemble whose M members
            have values of their own.
    """

    findings: tuple[str, ...]
    line: NDArray[np.int64]
    image: NDArray[np.str_]
    group: NDArray[np.int64]
    labels: NDArray[np.int8]
    sizes: NDArray[np.int64]
    failures: tuple[tuple[int, str], ...]
    models: tuple[ModelAnswers, ...]
    alpha: float
    calibration: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.line)

    @property
    def fusion_trained(self) -> bool:
        """Whether all fusion heads are trained, so that local scores and region attention are meaningful."""
        return all(model.info["fusion_trained"] for model in self.models)

    def probability(self, alpha: float, calibration: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Mean probability over the models ``[N, F]``, with the calibration in effect or another one."""
        tables = self._tables(self.calibration if calibration is None else calibration)
        each = [
            logistic(table[:, 0] * model.gap(alpha) + table[:, 1])
            for model, table in zip(self.models, tables, strict=True)
        ]
        result: NDArray[np.float64] = np.mean(each, axis=0)
        return result

    def _tables(self, calibration: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[M, F, 2]``: the calibration of each model."""
        return np.broadcast_to(calibration, (len(self.models), len(self.findings), 2))

    def ranking(self, alpha: float) -> NDArray[np.float64]:
        """``[N, F]``: scores in the order of the probabilities, without their rounding near 1."""
        return self.models[0].gap(alpha) if len(self.models) == 1 else self.probability(alpha)

    def joined(self, other: Scores) -> Scores:
        """These models and those of `other` as one ensemble.

        Raises:
            UsageError: images, findings, preprocessing or alpha differ.
        """
        self.check_same_images(other)
        if self.findings != other.findings:
            raise UsageError("the findings of the models of an ensemble differ")
        for key in _SHARED:
            if self.models[0].info.get(key) != other.models[0].info.get(key):
                raise UsageError(
                    f"the models of an ensemble differ in {key}",
                    fix="Use models with the same preprocessing and alpha.",
                )
        tables = [*self._tables(self.calibration), *other._tables(other.calibration)]
        return replace(self, models=(*self.models, *other.models), calibration=_in_common(tables))

    def check_same_images(self, other: Scores) -> None:
        """Raise UsageError unless both have the same images in the same order."""
        if len(self) != len(other):
            raise UsageError(
                f"the models have answers for {len(self)} and {len(other)} images",
                fix="Compare models on the same dataset and split.",
            )
        differing = int((self.image != other.image).sum())
        if differing:
            same = sorted(self.image.tolist()) == sorted(other.image.tolist())
            raise UsageError(
                f"{differing} of {len(self)} images differ between the two models",
                why="their order differs" if same else "their files differ",
                fix="Compare models on the same dataset and split.",
            )


@dataclass(frozen=True)
class _Decoded:
    size: tuple[int, int]
    sha256: str
    pixel_values: NDArray[np.float32]


def score_rows(  # noqa: PLR0913
    classifier: ZeroShotClassifier,
    rows: Sequence[Row],
    findings: FindingSet | None = None,
    *,
    batch_size: int = 8,
    workers: int | None = None,
    skip_bad_rows: bool = False,
    exact: bool = False,
    on_progress: Callable[[], None] = lambda: None,
) -> Scores:
    """Score the images of rows of a dataset.

    Args:
        classifier: the model.
        rows: at least one row.
        findings: findings to score; by default the model's. Labels are matched by `finding_key`.
        batch_size: images of a batch.
        workers: threads that decode; ``None`` for one a processor.
        skip_bad_rows: leave out images that cannot be read, or whose masks or boxes do not fit; they are in the
            result's `failures`.
        exact: read every pixel of the images; see `lrclr.images.read_for_model`.
        on_progress: called after every image.

    Raises:
        UsageError: there are no rows.
        LrclrError: an image cannot be used and `skip_bad_rows` is False, or no image can.
    """
    if not rows:
        raise UsageError("there are no images to score")
    asked, spec = findings or classifier.spec.findings, classifier.spec
    kept: list[tuple[Row, _Decoded]] = []
    failures: list[tuple[int, str]] = []
    parts: list[list[Answers]] = []
    # The decoding threads use all cores. Small products that OpenBLAS splits again take ten times as long.
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        for batch in batches_ahead(
            rows, partial(_decode, spec.preprocess, exact), batch_size=batch_size, workers=workers
        ):
            good: list[tuple[Row, _Decoded]] = []
            for row, outcome in batch:
                if isinstance(outcome, LrclrError):
                    failures.append((row.line, without_name(outcome, row.image)))
                else:
                    good.append((row, outcome))
            # After a failure that is not skipped, the other images are read only to count failures.
            if good and (skip_bad_rows or not failures):
                parts.append(classifier.answer_members(np.stack([one.pixel_values for _, one in good]), asked))
                # Without the pixels, which would fill the memory.
                kept += [(row, replace(one, pixel_values=_NOTHING)) for row, one in good]
            for _ in batch:
                on_progress()
    if not skip_bad_rows:
        problems = [RowProblem(line, reason) for line, reason in failures]
        raise_bad_rows("the dataset", problems, len(rows) - len(problems), fix=SKIP)
    if not kept:
        raise LrclrError(f"none of {len(rows)} images could be used", why=f"line {failures[0][0]}: {failures[0][1]}")
    of_members = list(zip(*parts, strict=True))
    regions = Answers.joined(of_members[classifier.lead])
    return Scores(
        findings=asked.names,
        line=np.array([row.line for row, _ in kept], np.int64),
        image=np.array([one.sha256 for _, one in kept]),
        group=_groups([row.patient for row, _ in kept]),
        labels=_labels([row for row, _ in kept], asked.names),
        sizes=np.array([one.size for _, one in kept], np.int64),
        failures=tuple(failures),
        models=tuple(
            ModelAnswers({**_info(member, spec), "exact": exact}, _with_regions(Answers.joined(own), regions))
            for member, own in zip(classifier.members, of_members, strict=True)
        ),
        alpha=spec.alpha,
        calibration=_in_common(
            [
                np.stack(own.calibration.of(asked, own.findings), axis=1).astype(np.float64)
                for own in (member.spec for member in classifier.members)
            ]
        ),
    )


def _in_common(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The calibration ``[F, 2]`` of all members, or ``[M, F, 2]`` where they differ."""
    same = all(np.array_equal(table, tables[0]) for table in tables)
    return tables[0] if same else np.stack(tables)


_NOTHING = np.empty(0, np.float32)


@reading()
def _decode(spec: PreprocessSpec, exact: bool, row: Row) -> _Decoded:
    data = read_bytes(row.image, _LIMITS)
    digest = hashlib.sha256(data)
    if row.frame is not None:
        digest.update(f"frame {row.frame}".encode())
    image = read_for_model(data, spec, exact=exact, frame=row.frame, limits=_LIMITS)
    check_places(row, (image.height, image.width))
    return _Decoded((image.height, image.width), digest.hexdigest(), preprocess(image, spec))


def _groups(patients: Sequence[str]) -> NDArray[np.int64]:
    """Numbers for pseudonyms; each image without one gets its own number."""
    numbers: dict[str, int] = {}
    keys = [patient or f"\0{position}" for position, patient in enumerate(patients)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _labels(rows: Sequence[Row], names: Sequence[str]) -> NDArray[np.int8]:
    keys = [finding_key(name) for name in names]
    stated = [{finding_key(name): value for name, value in row.labels.items()} for row in rows]
    return np.array([[labels.get(key, NOT_STATED) for key in keys] for labels in stated], np.int8)


def _with_regions(answers: Answers, regions: Answers) -> Answers:
    """Answers with the regions of `regions`. All members of an ensemble get those of one member, as in `Prediction`."""
    names = ("region_index", "region_importance", "region_attention")
    return replace(answers, **{name: getattr(regions, name) for name in names})


def _info(classifier: ZeroShotClassifier, whole: ModelSpec) -> dict[str, Any]:
    """Facts about a model, or about a member of the model `whole`."""
    spec = classifier.spec
    return {
        "kind": spec.kind,
        "sha256": spec.sha256,
        "checkpoint_sha256": spec.checkpoint_sha256,
        "precision": spec.precision,
        "engine": classifier.engine.name,
        "fusion_trained": spec.fusion_trained,
        "alpha": spec.alpha,
        **spec.calibration.to_dict(),
        "patch_size": whole.patch_size,
        "preprocess": spec.preprocess.to_dict(),
    }
