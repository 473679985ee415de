"""`ZeroShotClassifier`: from images to findings and the regions that speak for them. What everything else calls."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.bundle import Bundle
from lrclr.engines import Engine, OnnxRuntimeEngine
from lrclr.errors import ImageError, NonFiniteError, UsageError
from lrclr.preprocess import preprocess_batch
from lrclr.results import FindingResult, Prediction, Region
from lrclr.scoring import combined_score, finding_scores, global_score, probabilities

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.findings import FindingSet

__all__ = ["ZeroShotClassifier"]

_MAX_PAIRS = 2048  # image-prompt pairs in the fusion head at once: bounds its memory
_PROMPT_SETS = 16


@dataclass(frozen=True)
class _Prompts:
    """Features of one set of prompts: ``[P, D]``, ``[P, T, D_text]``, ``[P, T]``."""

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32]
    mask: NDArray[np.int64]


class ZeroShotClassifier:
    """Answers for images with a bundle. Safe to call from several threads.

    Args:
        bundle: what to answer with.
        engine: what runs its graphs.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self.engine = bundle, engine
        scoring = bundle.manifest.scoring
        self.fusion_trained = bool(scoring["fusion_trained"])
        self._alpha, self._scale = float(scoring["alpha"]), float(scoring["score_scale"])
        self._prompts: OrderedDict[tuple[str, ...], _Prompts] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def from_bundle(
        cls, path: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None
    ) -> ZeroShotClassifier:
        """Open a bundle with ONNX Runtime.

        Args:
            path: the bundle's folder.
            provider: ``"cpu"`` or ``"cuda"``.
            threads: of one operator; ``None`` for one a core.
        """
        bundle = Bundle(path)
        return cls(bundle, OnnxRuntimeEngine(bundle, provider=provider, threads=threads))

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """Answer for images as `read_image` gives them, each ``[H, W]`` or ``[H, W, 3]``.

        Args:
            images: any number of any sizes.
            findings: what to ask for; the bundle's own if not given.
            alpha: weight of the local score, instead of the bundle's.

        Returns:
            One prediction an image, in order.

        Raises:
            UsageError: `alpha` is not usable with this bundle.
            FindingsError: a prompt is too long.
            ImageError: an image is not what `read_image` gives.
            NonFiniteError: the graphs gave NaN or infinity.
        """
        if len(images) == 0:
            return []
        sizes = [image.shape[:2] for image in images]
        return self.predict_pixels(preprocess_batch(images, self.bundle.preprocess), sizes, findings, alpha)

    def predict_pixels(
        self,
        pixel_values: NDArray[np.float32],
        sizes: Sequence[tuple[int, ...]],
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """As `predict`, for images that are preprocessed already: ``[B, 3, S, S]``, and their sizes before that."""
        side = self.bundle.preprocess.image_size
        if pixel_values.shape != (len(sizes), 3, side, side):
            raise ImageError(
                f"pixel values have shape {list(pixel_values.shape)}", why=f"expected [{len(sizes)}, 3, {side}, {side}]"
            )
        if not np.isfinite(pixel_values).all():
            raise ImageError("pixel values hold NaN or infinity")
        findings = findings or self.bundle.findings
        alpha = self._checked_alpha(alpha)
        prompts = self._features(findings.prompts)
        step = self.bundle.manifest.max_batch
        return [
            prediction
            for start in range(0, len(sizes), step)
            for prediction in self._answer(
                pixel_values[start : start + step], sizes[start : start + step], findings, prompts, alpha
            )
        ]

    def _checked_alpha(self, alpha: float | None) -> float:
        if alpha is None:
            return self._alpha
        if not 0.0 <= alpha <= 1.0:
            raise UsageError(f"alpha is {alpha}", fix="It must be between 0 and 1.")
        if alpha > 0.0 and not self.fusion_trained:
            raise UsageError(
                f"alpha is {alpha}, but this bundle's fusion head was never trained",
                why="its local scores mean nothing",
                fix="Leave alpha at 0, or export a checkpoint with a trained fusion head.",
            )
        return alpha

    def _features(self, prompts: tuple[str, ...]) -> _Prompts:
        with self._lock:
            if prompts in self._prompts:
                self._prompts.move_to_end(prompts)
                return self._prompts[prompts]
        tokens = self.bundle.tokenizer.encode(prompts)
        text = self._run("text_encoder", {"input_ids": tokens.input_ids})
        features = _Prompts(text["text_embedding"], text["text_tokens"], tokens.mask)
        with self._lock:
            self._prompts[prompts] = features
            if len(self._prompts) > _PROMPT_SETS:
                self._prompts.popitem(last=False)
        return features

    def _answer(
        self,
        pixel_values: NDArray[np.float32],
        sizes: Sequence[tuple[int, ...]],
        findings: FindingSet,
        prompts: _Prompts,
        alpha: float,
    ) -> Iterator[Prediction]:
        image = self._run("image_encoder", {"pixel_values": pixel_values})
        local, attention = self._fuse(image["region_tokens"], prompts)
        global_ = global_score(image["image_embedding"], prompts.embedding)
        probability = probabilities(combined_score(global_, local, alpha), findings, self._scale)
        global_positive, global_negative = finding_scores(global_, findings)
        local_positive, local_negative = finding_scores(local, findings)
        for b, (height, width) in enumerate(sizes):
            geometry = self.bundle.preprocess.geometry(height, width)
            regions = tuple(
                Region(int(patch), float(importance), geometry.box(int(patch), self.bundle.patch_size))
                for patch, importance in zip(image["region_index"][b], image["region_importance"][b], strict=True)
            )
            results = tuple(
                FindingResult(
                    finding.name,
                    float(probability[b, f]),
                    float(global_positive[b, f]),
                    float(global_negative[b, f]),
                    float(local_positive[b, f]),
                    float(local_negative[b, f]),
                    tuple(attention[b, findings.positive_index[f]].mean(0).tolist()),
                )
                for f, finding in enumerate(findings.findings)
            )
            yield Prediction(height, width, results, regions, alpha, self.fusion_trained)

    def _fuse(
        self, region_tokens: NDArray[np.float32], prompts: _Prompts
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        step = max(1, _MAX_PAIRS // len(prompts.mask))
        parts = [
            self._run(
                "fusion_head",
                {
                    "region_tokens": region_tokens[start : start + step],
                    "text_tokens": prompts.tokens,
                    "text_mask": prompts.mask,
                },
            )
            for start in range(0, len(region_tokens), step)
        ]
        return (
            np.concatenate([part["local_score"] for part in parts]),
            np.concatenate([part["region_attention"] for part in parts]),
        )

    def _run(self, graph: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self.engine.run(graph, inputs)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise NonFiniteError(f"{graph} gave NaN or infinity in {name}", fix="Run `lrclr verify` on the bundle.")
        return outputs
