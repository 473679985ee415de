"""Computes the response to a checked request."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from lrclr._processors import processors
from lrclr._version import __version__
from lrclr.budget import HEATMAP_BYTES, decoding, reading
from lrclr.errors import FindingsError, LrclrError, UsageError, require_packages
from lrclr.images import ReadLimits, read_for_model, read_image
from lrclr.inference import draw_heatmap, png_bytes
from lrclr.preprocessing import preprocess
from lrclr.text import FindingSet
from lrclr.triton.model._request import Request
from lrclr.triton.model._tensors import put, put_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lrclr.inference import Prediction, ZeroShotClassifier
    from lrclr.triton.model._metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")


class _File(NamedTuple):
    """What an answer says of a file: size of the full image, remarks, and codes of warnings."""

    size: tuple[int, ...]
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Answerer:
    """Answers requests with a classifier, as `lrclr predict` does.

    Args:
        classifier: classifier of a bundle.
        metrics: counters to update.
        max_prompts: largest number of prompts in one run of the text encoder.
        limits: limits on the size of images.
        before_image: called between images that are decoded or drawn, in the calling thread. An exception of it ends
            the request.
    """

    def __init__(
        self,
        classifier: ZeroShotClassifier,
        metrics: Metrics,
        max_prompts: int,
        limits: ReadLimits | None = None,
        *,
        before_image: Callable[[], None] = lambda: None,
    ) -> None:
        self._before_image = before_image
        self._max_prompts = max_prompts
        self._classifier = classifier
        self._metrics = metrics
        self._limits = limits or ReadLimits()
        self._pool = ThreadPoolExecutor(processors(), thread_name_prefix="decode")
        self._prompts = (0, 0)

    def answer(self, request: Request) -> list[Any]:
        """The tensors of the response.

        Raises:
            LrclrError: the request cannot be answered; the text gives the number of the image.
        """
        if request.describe:
            return [put_bytes("description", [self._description().encode()])]
        findings = self._findings(request)
        if request.pixel_values is not None:
            pixel_values = request.pixel_values
            files = [_File(pixel_values.shape[2:])] * len(pixel_values)
        else:
            pixel_values, files = self._decoded(request)
        sizes = [file.size for file in files]
        answers = self._classifier.answer_pixels(pixel_values, findings, request.alpha)
        spread = () if answers.probability_spread is None else ("probability_spread",)
        predictions = self._classifier.predictions(answers, sizes, findings, request.alpha)
        tensors = [
            put_bytes("finding", [name.encode() for name in findings.names]),
            *(put(name, getattr(answers, name)) for name in (*answers.names(), *spread)),
            put("region_box", np.array([[region.box for region in one.regions] for one in predictions], np.float64)),
            put("image_size", np.array(sizes, np.int64)),
            put_bytes("remarks", ["\n".join(file.remarks).encode() for file in files]),
            put_bytes("warnings", ["\n".join(file.warnings).encode() for file in files]),
            put("alpha", np.array([predictions[0].alpha], np.float64)),
            put_bytes("bundle", [self._classifier.spec.sha256.encode()]),
        ]
        if request.pixel_values is None:
            tensors.append(put("exact", np.array([request.exact])))
        if request.embedding:
            if answers.image_embedding is None:
                raise UsageError("this model has no image embedding")
            tensors.append(put("image_embedding", answers.image_embedding))
        if request.heatmap:
            tensors.append(put_bytes("heatmap", self._drawn(request, predictions)))
        if request.sr:
            warned = [replace(one, warnings=file.warnings) for one, file in zip(predictions, files, strict=True)]
            tensors.append(put_bytes("sr", self._reports(request, warned, findings)))
        self._count(len(predictions))
        for code, count in Counter(code for file in files for code in file.warnings).items():
            self._metrics.add("lrclr_warnings_total", count, code=code)
        # With other prompts or another alpha, a probability has another distribution.
        if request.findings_toml is None and request.alpha is None:
            self._metrics.probabilities(findings.names, answers.probability)
        self._metrics.flush()
        return tensors

    def close(self) -> None:
        """End the decoding threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _findings(self, request: Request) -> FindingSet:
        own = self._classifier.spec.findings
        if request.findings_toml is not None:
            findings = FindingSet.loads(request.findings_toml)
        elif request.finding is not None:
            findings = own.only(request.finding)
        else:
            findings = own
        if len(findings.prompts) > self._max_prompts:
            raise FindingsError(
                f"the findings have {len(findings.prompts)} prompts", why=f"a request may have {self._max_prompts}"
            )
        # Findings can share prompts, and each finding takes space in the answer.
        if len(findings.names) > self._max_prompts and findings is not own:
            raise FindingsError(
                f"there are {len(findings.names)} findings", why=f"a request may have {self._max_prompts}"
            )
        return findings

    def _decoded(self, request: Request) -> tuple[NDArray[np.float32], list[_File]]:
        """Pixel values of the request's files, and what else the answer says of each."""
        began = time.perf_counter()
        spec, limits = self._classifier.spec.preprocess, self._limits

        files = request.image or ()
        # One array for all images: concatenating a list of arrays would need twice the memory.
        pixel_values = np.empty((len(files), 3, spec.image_size, spec.image_size), np.float32)

        @reading()
        def decode(place: int) -> _File:
            read = read_for_model(files[place], spec, exact=request.exact, frame=request.frame, limits=limits)
            pixel_values[place] = preprocess(read, spec)
            return _File((read.height, read.width), read.remarks, read.warnings)

        done = self._each(decode, range(len(files)))
        self._metrics.add("lrclr_decode_seconds_total", time.perf_counter() - began)
        return pixel_values, done

    def _drawn(self, request: Request, predictions: Sequence[Prediction]) -> list[bytes]:
        """Heat maps at the full size of the images."""

        @reading()
        def draw(place: int) -> bytes:
            decoding.reserve(HEATMAP_BYTES)
            image = read_image((request.image or ())[place], frame=request.frame, limits=self._limits)
            return png_bytes(draw_heatmap(image, predictions[place]))

        return self._each(draw, range(len(predictions)))

    def _reports(self, request: Request, predictions: Sequence[Prediction], findings: FindingSet) -> list[bytes]:
        """DICOM structured reports."""
        require_packages("dicom-results", ("highdicom",), "writing DICOM results")
        # Imported here: pydicom takes a tenth of a second, and most servers make no reports.
        from lrclr.dicom_results import DicomSource, ResultBuilder, ResultModel, ResultRefusedError

        builder = ResultBuilder(ResultModel(self._classifier.spec.sha256, findings, request.exact))

        def report(place: int) -> bytes:
            try:
                source = DicomSource.read((request.image or ())[place], frame=request.frame)
                return builder.build("sr", source, predictions[place])
            except ResultRefusedError as error:
                raise UsageError(error.what, why=error.why, fix="Ask for this image without sr.") from error

        return self._each(report, range(len(predictions)))

    def _each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do `work` on the images of a request in several threads. An error gives the number of its image.

        Errors must not contain names of files, which could be names of patients.
        """

        def numbered(place: int) -> Result:
            try:
                return work(items[place])
            except LrclrError as error:
                if len(items) > 1:
                    error.what = f"image {place + 1} of {len(items)}: {error.what}"
                raise

        self._before_image()
        if len(items) == 1:
            return [numbered(0)]
        done, waiting = [], [self._pool.submit(numbered, place) for place in range(len(items))]
        try:
            for one in waiting:
                done.append(one.result())
                # Not in the threads of the pool: Triton 2.51 crashes if several threads of a process check at the same
                # time whether a request was cancelled.
                self._before_image()
        finally:
            for one in waiting:
                one.cancel()
        return done

    def _count(self, images: int) -> None:
        self._metrics.add("lrclr_images_total", images)
        cache = self._classifier.prompt_cache
        before, self._prompts = self._prompts, (cache.hits, cache.misses)
        self._metrics.add("lrclr_prompt_cache_hits_total", cache.hits - before[0])
        self._metrics.add("lrclr_prompt_cache_misses_total", cache.misses - before[1])

    def _description(self) -> str:
        spec = self._classifier.spec
        return json.dumps(
            {
                "lrclr": __version__,
                "bundle": spec.sha256,
                "checkpoint": spec.checkpoint_sha256,
                "precision": spec.precision,
                "engine": self._classifier.engine.name,
                "max_batch": spec.max_batch,
                "alpha": spec.alpha,
                **spec.calibration.to_dict(),
                "fusion_trained": spec.fusion_trained,
                "patch_size": spec.patch_size,
                "preprocess": spec.preprocess.to_dict(),
                # The default of requests.
                "exact": Request.exact,
                "findings": spec.findings.to_toml(),
                "members": list(spec.members),
                "regions_from": spec.regions_from,
            },
            allow_nan=False,
        )
