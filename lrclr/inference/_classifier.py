"""`ZeroShotClassifier`: from images to findings and the regions that speak for them. What everything else calls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.budget import FUSION_ROWS
from lrclr.bundle import Bundle
from lrclr.errors import ImageError, NonFiniteError, UsageError
from lrclr.images import ReducedImage
from lrclr.inference._model_spec import ModelSpec
from lrclr.inference._prompt_cache import PromptCache, PromptFeatures
from lrclr.inference._results import Answers
from lrclr.inference._scores import combined_score, finding_scores, global_score, probabilities
from lrclr.preprocessing import preprocess_batch

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint
    from lrclr.engines import Engine
    from lrclr.inference._results import Prediction
    from lrclr.text import FindingSet

__all__ = ["ZeroShotClassifier"]


class ZeroShotClassifier:
    """Answers for images with a model. Safe to call from several threads.

    Args:
        model: what to answer with.
        engine: what runs its graphs.

    Attributes:
        spec: what is known of the model.
        engine: what runs its graphs.
        prompt_cache: features of the prompts that were asked for.
    """

    def __init__(self, model: Bundle | ModelSpec, engine: Engine) -> None:
        self._bundle = model if isinstance(model, Bundle) else None
        self.spec = ModelSpec.of_bundle(model) if isinstance(model, Bundle) else model
        self.engine = engine
        self.prompt_cache = PromptCache(self._encode_prompts)

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str],
        *,
        engine: str | None = None,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> ZeroShotClassifier:
        """Open a bundle.

        Args:
            path: the bundle's folder.
            engine: one of `lrclr.engines.ENGINES`; None for the one that the bundle was made for.
                `lrclr.auto.open_model` also chooses the fastest one on this machine.
            provider: of ONNX Runtime: ``"cpu"`` or ``"cuda"``.
            threads: of one operator of ONNX Runtime or OpenVINO; ``None`` for one a core.
        """
        # Imported here: clients, training and reports use this package without an engine.
        from lrclr.engines import EngineOptions, open_named_engine

        bundle = Bundle(path)
        return cls(bundle, open_named_engine(bundle, EngineOptions(engine, provider, threads)))

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint | str | os.PathLike[str], *, device: str = "cpu"
    ) -> ZeroShotClassifier:
        """Answer with a checkpoint in PyTorch: slower than its bundle, and what the bundle is measured against.

        Args:
            checkpoint: in memory, or the file or folder to read it from.
            device: where torch runs.
        """
        from lrclr.checkpoints import Checkpoint, load_checkpoint
        from lrclr.engines._torch import TorchEngine

        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        return cls(ModelSpec.of_checkpoint(loaded), TorchEngine(loaded.model, device))

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers.

        Raises:
            UsageError: it is no bundle; `spec` tells what is known of any model.
        """
        if self._bundle is None:
            raise UsageError(f"this classifier answers with a {self.spec.kind}, and has no bundle")
        return self._bundle

    @property
    def fusion_trained(self) -> bool:
        """Whether the fusion head was ever tuned."""
        return self.spec.fusion_trained

    def predict(
        self,
        images: Sequence[NDArray[np.uint8] | ReducedImage],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """Answer for images as `read_image` gives them, each ``[H, W]`` or ``[H, W, 3]``, or `read_reduced`.

        Args:
            images: any number of any sizes.
            findings: what to ask for; the model's own if not given.
            alpha: weight of the local score, instead of the model's.

        Returns:
            One prediction an image, in order.

        Raises:
            UsageError: `alpha` is not usable with this model.
            FindingsError: a prompt is too long.
            ImageError: an image is not what `read_image` gives.
            NonFiniteError: the graphs gave NaN or infinity.
        """
        if len(images) == 0:
            return []
        read = [one if isinstance(one, ReducedImage) else ReducedImage.whole(one) for one in images]
        sizes = [(one.height, one.width) for one in read]
        predictions = self.predict_pixels(preprocess_batch(images, self.spec.preprocess), sizes, findings, alpha)
        return [replace(each, remarks=one.remarks) for each, one in zip(predictions, read, strict=True)]

    def predict_pixels(
        self,
        pixel_values: NDArray[np.float32],
        sizes: Sequence[tuple[int, ...]],
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """As `predict`, for images that are preprocessed already: ``[B, 3, S, S]``, and their sizes before that."""
        side = self.spec.preprocess.image_size
        if pixel_values.shape != (len(sizes), 3, side, side):
            raise ImageError(
                f"pixel values have shape {list(pixel_values.shape)}", why=f"expected [{len(sizes)}, 3, {side}, {side}]"
            )
        findings = findings or self.spec.findings
        alpha = self._checked_alpha(alpha)
        if len(sizes) == 0:
            return []
        answers = self.answer_pixels(pixel_values, findings, alpha)
        return self.predictions(answers, sizes, findings, alpha)

    def answer_pixels(
        self, pixel_values: NDArray[np.float32], findings: FindingSet | None = None, alpha: float | None = None
    ) -> Answers:
        """The arrays behind `predict_pixels`.

        Args:
            pixel_values: ``[B, 3, S, S]``, preprocessed.
            findings: what to ask for; the model's own if not given.
            alpha: weight of the local score in the probability, instead of the model's.

        Raises the errors of `predict`.
        """
        side = self.spec.preprocess.image_size
        if pixel_values.shape[1:] != (3, side, side) or len(pixel_values) == 0:
            raise ImageError(
                f"pixel values have shape {list(pixel_values.shape)}", why=f"expected [images, 3, {side}, {side}]"
            )
        if not np.isfinite(pixel_values).all():
            raise ImageError("pixel values hold NaN or infinity")
        findings = findings or self.spec.findings
        alpha = self._checked_alpha(alpha)
        prompts = self.prompt_cache.features(findings.prompts)
        step = self.spec.max_batch
        parts = [
            self._answer(pixel_values[start : start + step], findings, prompts, alpha)
            for start in range(0, len(pixel_values), step)
        ]
        return Answers.joined(parts)

    def _checked_alpha(self, alpha: float | None) -> float:
        if alpha is None:
            return self.spec.alpha
        if not 0.0 <= alpha <= 1.0:
            raise UsageError(f"alpha is {alpha}", fix="It must be between 0 and 1.")
        if alpha > 0.0 and not self.fusion_trained:
            raise UsageError(
                f"alpha is {alpha}, but the fusion head of this {self.spec.kind} was never trained",
                why="its local scores mean nothing",
                fix="Leave alpha at 0, or use a checkpoint with a trained fusion head.",
            )
        return alpha

    def _encode_prompts(self, prompts: tuple[str, ...]) -> PromptFeatures:
        if self.spec.tokenizer is None:
            raise UsageError("this model has no tokenizer", why=f"it is a {self.spec.kind}")
        tokens = self.spec.tokenizer.encode(prompts)
        text = self._run("text_encoder", {"input_ids": tokens.input_ids})
        return PromptFeatures(text["text_embedding"], text["text_tokens"], tokens.mask)

    def _answer(
        self, pixel_values: NDArray[np.float32], findings: FindingSet, prompts: PromptFeatures, alpha: float
    ) -> Answers:
        image = self._run("image_encoder", {"pixel_values": pixel_values})
        local, attention = self._fuse(image["region_tokens"], prompts)
        global_ = global_score(image["image_embedding"], prompts.embedding)
        return Answers(
            probabilities(
                combined_score(global_, local, alpha),
                findings,
                *self.spec.calibration.of(findings, self.spec.findings),
            ),
            *finding_scores(global_, findings),
            *finding_scores(local, findings),
            np.stack([attention[:, index].mean(1) for index in findings.positive_index], axis=1),
            image["region_index"],
            image["region_importance"],
        )

    def predictions(
        self,
        answers: Answers,
        sizes: Sequence[tuple[int, ...]],
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """What `answer_pixels` gave, as predictions for images of these sizes; findings and alpha as there."""
        findings = findings or self.spec.findings
        boxes = []
        for (height, width), patches in zip(sizes, answers.region_index.tolist(), strict=True):
            geometry = self.spec.preprocess.geometry(height, width)
            boxes.append([geometry.box(patch, self.spec.patch_size) for patch in patches])
        return answers.predictions(
            findings.names, sizes, boxes, alpha=self._checked_alpha(alpha), fusion_trained=self.spec.fusion_trained
        )

    def _fuse(
        self, region_tokens: NDArray[np.float32], prompts: PromptFeatures
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        # Its memory grows with the tokens of all pairs.
        rows = len(prompts.mask) * (region_tokens.shape[1] + prompts.mask.shape[1])
        step = max(1, FUSION_ROWS // rows)
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
