"""One network on its engine: it runs the three graphs, and computes answers and embeddings from their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.budget import FUSION_ROWS, RUN_PROMPTS, TEXT_TOKENS
from lrclr.engines import tokens_of_call
from lrclr.errors import FindingsError, ImageError, NonFiniteError, UsageError
from lrclr.inference._groups import length_groups
from lrclr.inference._prompt_cache import PromptCache, PromptFeatures
from lrclr.inference._results import Answers, ImageEmbeddings
from lrclr.inference._scores import (
    attention_of_groups,
    combined_score,
    finding_scores,
    global_score,
)
from lrclr.text import check_prompts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from lrclr.engines import Engine
    from lrclr.inference._model_spec import ModelSpec
    from lrclr.text import FindingSet

# Tokens that the text encoder computes in the time that a call takes in addition, for ViT-B/32 on a CPU.
_TEXT_CALL: Final = 64


class Network:
    """One network on its engine. Safe to call from several threads.

    Args:
        spec: preprocessing, tokenizer, findings and scoring of the network.
        engine: runs its graphs.

    Attributes:
        prompt_cache: features of prompts that were encoded before.
    """

    def __init__(self, spec: ModelSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine
        self.prompt_cache = PromptCache(self._encode_prompts)

    def encode(self, pixel_values: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
        """Run the image encoder.

        Args:
            pixel_values: float32 ``[B, 3, S, S]``, at least one image.

        Yields:
            The encoder's outputs, for as many images at once as it takes.

        Raises:
            ImageError: `pixel_values` has another shape, or contains NaN or infinity.
            NonFiniteError: the graph gave NaN or infinity.
        """
        side = self.spec.preprocess.image_size
        if pixel_values.shape[1:] != (3, side, side) or len(pixel_values) == 0:
            raise ImageError(
                f"pixel values have shape {list(pixel_values.shape)}", why=f"expected [images, 3, {side}, {side}]"
            )
        if not np.isfinite(pixel_values).all():
            raise ImageError("pixel values contain NaN or infinity")
        step = self.spec.max_batch
        for start in range(0, len(pixel_values), step):
            yield self._run("image_encoder", {"pixel_values": pixel_values[start : start + step]})

    def embed(self, pixel_values: NDArray[np.float32]) -> ImageEmbeddings:
        """Compute the embeddings of images and of their selected regions.

        The arguments and errors are those of `encode`.
        """
        parts = []
        for output in self.encode(pixel_values):
            # The first token is the global one.
            regions = output["region_tokens"][:, 1:]
            length = np.linalg.norm(regions, axis=-1, keepdims=True)
            parts.append(
                ImageEmbeddings(
                    # Copies: a server's output may lie in memory that it uses again.
                    output["image_embedding"].copy(),
                    regions / np.maximum(length, np.finfo(np.float32).tiny),
                    output["region_index"].copy(),
                )
            )
        return ImageEmbeddings.joined(parts)

    def answer(
        self, images: Iterable[Mapping[str, NDArray[Any]]], findings: FindingSet, alpha: float | None
    ) -> Answers:
        """Compute the answers for images from their encoder's outputs.

        Args:
            images: outputs of the image encoder, as `encode` yields them.
            findings: what to predict.
            alpha: weight of the local score; None for that of `spec`.

        Raises:
            UsageError: alpha is not usable with this network.
            FindingsError: a prompt is too long; the text names its finding.
            NonFiniteError: a graph gave NaN or infinity.
        """
        alpha = self.spec.checked_alpha(alpha)
        prompts = self._features(findings)
        return Answers.joined([self._answer(image, findings, prompts, alpha) for image in images])

    def _answer(
        self, image: Mapping[str, NDArray[Any]], findings: FindingSet, prompts: PromptFeatures, alpha: float
    ) -> Answers:
        calibration = self.spec.calibration
        local, attention = self._fuse(image["region_tokens"], prompts)
        global_ = global_score(image["image_embedding"], prompts.embedding)
        return Answers(
            calibration.probabilities(combined_score(global_, local, alpha), findings, self.spec.findings),
            *finding_scores(global_, findings, calibration.threshold),
            *finding_scores(local, findings, calibration.threshold),
            attention_of_groups(attention, local, findings.positive_index),
            image["region_index"],
            image["region_importance"],
            image["image_embedding"],
        )

    def _features(self, findings: FindingSet) -> PromptFeatures:
        try:
            return self.prompt_cache.features(findings.prompts)
        except FindingsError:
            # Raises an error that names the finding, too.
            if self.spec.tokenizer is not None:
                check_prompts(findings, self.spec.tokenizer)
            raise

    def _encode_prompts(self, prompts: tuple[str, ...]) -> PromptFeatures:
        if self.spec.tokenizer is None:
            raise UsageError("this model has no tokenizer", why=f"it is a {self.spec.kind}")
        tokens = self.spec.tokenizer.encode(prompts)
        count, padded = tokens.input_ids.shape
        # The fusion head takes two tokens at least. It masks padding, so that the features need not have it.
        lengths = np.maximum(2, tokens.mask.sum(1))
        longest = int(lengths.max())
        read = np.full(count, padded) if self.spec.tokenizer.fixed_length else np.minimum(lengths, padded)
        features: PromptFeatures | None = None
        for rows in length_groups(read, call=_TEXT_CALL, most_prompts=RUN_PROMPTS, most_tokens=TEXT_TOKENS):
            text = self._run("text_encoder", {"input_ids": tokens.input_ids[rows, : read[rows[-1]]]})
            embedding, hidden = text["text_embedding"], text["text_tokens"][:, :longest]
            if features is None:
                features = PromptFeatures(
                    np.empty((count, embedding.shape[-1]), np.float32),
                    np.zeros((count, longest, hidden.shape[-1]), np.float32),
                    tokens.mask[:, :longest],
                )
            features.embedding[rows] = embedding
            features.tokens[rows, : hidden.shape[1]] = hidden
        assert features is not None  # noqa: S101 - for the type checker; the tokenizer refuses an empty list
        return features

    def _fuse(
        self, region_tokens: NDArray[np.float32], prompts: PromptFeatures
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        images, beside, _ = region_tokens.shape
        count, longest = prompts.mask.shape
        local = np.empty((images, count), np.float32)
        attention = np.empty((images, count, beside - 1), np.float32)
        call = tokens_of_call(self.engine)
        lengths = np.full(count, longest) if call is None else np.maximum(2, prompts.mask.sum(1))
        groups = length_groups(
            lengths, call=call or 0, most_prompts=RUN_PROMPTS, most_tokens=FUSION_ROWS, beside=beside, times=images
        )
        for rows in groups:
            length = int(lengths[rows[-1]])
            # The memory of the fusion head grows with the tokens of all pairs, so images go through it in parts.
            step = max(1, FUSION_ROWS // (len(rows) * (beside + length)))
            tokens, mask = prompts.tokens, prompts.mask
            if len(groups) > 1:
                tokens, mask = tokens[rows, :length], mask[rows, :length]
            for start in range(0, images, step):
                part = slice(start, start + step)
                output = self._run(
                    "fusion_head", {"region_tokens": region_tokens[part], "text_tokens": tokens, "text_mask": mask}
                )
                numbers = rows if len(groups) > 1 else slice(None)
                local[part, numbers] = output["local_score"]
                attention[part, numbers] = output["region_attention"]
        return local, attention

    def _run(self, graph: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self.engine.run(graph, inputs)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise NonFiniteError(f"{graph} gave NaN or infinity in {name}", fix="Run `lrclr verify` on the bundle.")
        return outputs
