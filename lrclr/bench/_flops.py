"""Operations and memory traffic of the graphs, counted from the network's sizes.

Matrix products are counted, with one multiplication and one addition each, as the network is *defined*: every block
transforms every token. A graph that skips unused values, such as the MLP of tokens that are dropped after the last
block, computes less and shows a larger share of the peak. Rollout, norms, softmax and activations are not counted: they
are below one percent at ViT-B/32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from lrclr._records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lrclr.bench._case import Case

BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one call.

    Attributes:
        flops: multiplications and additions.
        traffic: least bytes to move: every weight once in the model's precision, inputs and outputs.
    """

    flops: float
    traffic: float

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.traffic


class Network(Record, frozen=True):
    """Sizes of the network, as in `LrclrConfig`.

    Attributes:
        image, text, fusion: width, MLP width and number of blocks of the towers and of the fusion head.
        stem: channels of the convolutions beside the patch embedding, as in `StemVisionConfig`; empty where there are
            none.
        patch: side of a patch in pixels.
        patches: patches of an image.
        fusion_heads: attention heads of a block of the fusion head.
        regions: selected regions.
        projection: width of the embeddings.
        prompt_tokens: tokens of the longest prompt.
    """

    image: tuple[int, int, int]
    text: tuple[int, int, int]
    fusion: tuple[int, int, int]
    stem: tuple[int, ...]
    patch: int
    patches: int
    fusion_heads: int
    regions: int
    projection: int
    prompt_tokens: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any], prompt_tokens: int) -> Network:
        """The network of a configuration from a manifest or a checkpoint."""
        vision, text = config["vision_config"], config["text_config"]
        tower = ("hidden_size", "intermediate_size", "num_hidden_layers")
        groups = vision["num_attention_heads"] if config["region_rollout"] == "per_head" else 1
        return cls(
            image=tuple(int(vision[key]) for key in tower),  # type: ignore[arg-type]
            text=tuple(int(text[key]) for key in tower),  # type: ignore[arg-type]
            fusion=tuple(int(config[f"fusion_{key.replace('hidden_layers', 'layers')}"]) for key in tower),  # type: ignore[arg-type]
            stem=tuple(vision.get("stem_channels", ())),
            patch=int(vision["patch_size"]),
            patches=(int(vision["image_size"]) // int(vision["patch_size"])) ** 2,
            fusion_heads=int(config["fusion_num_heads"]),
            regions=groups * int(config["region_top_k"]),
            projection=int(config["projection_dim"]),
            prompt_tokens=prompt_tokens,
        )

    def cost(self, case: Case, precision: str) -> Cost | None:
        """Cost of one call of a graph, or of pixels to findings; None for files, whose decoding is not counted."""
        size = BYTES.get(precision, 4)
        images, prompts, tokens = case.batch, case.prompts, self.prompt_tokens
        if case.stage == "image_encoder":
            moved = images * (3 * self.patch**2 * self.patches + (1 + self.regions) * self.image[0] + self.projection)
            return Cost(images * self._image(), self._image_weights() * size + 4 * moved)
        if case.stage == "text_encoder":
            moved = prompts * (tokens * (2 + self.text[0]) + self.projection)
            weights = _tower_weights(self.text) + self.text[0] * self.projection
            return Cost(prompts * self._text(), weights * size + 4 * moved)
        if case.stage == "fusion_head":
            return Cost(self._fusion(images, prompts), self._fusion_weights() * size + self._fusion_traffic(case))
        if case.stage == "classifier":
            pixels = 4 * images * 3 * self.patch**2 * self.patches
            weights = (self._image_weights() + self._fusion_weights()) * size
            flops = images * self._image() + self._fusion(images, prompts)
            return Cost(flops, weights + pixels + self._fusion_traffic(case))
        return None

    def _image(self) -> float:
        width, tokens = self.image[0], self.patches + 1
        embedding = 2 * self.patches * 3 * self.patch**2 * width
        pixels = self.patches * self.patch**2
        stem = sum(2.0 * weights * pixels / 4.0**halvings for weights, halvings in self._stem())
        return embedding + stem + _tower(self.image, tokens) + 2 * width * self.projection

    def _stem(self) -> Iterator[tuple[int, int]]:
        """Weights of each convolution, and how often the image was halved before its output."""
        if not self.stem:
            return
        channels = (3, *self.stem, self.image[0])
        for halvings, (before, after) in enumerate(pairwise(channels), 1):
            yield 9 * before * after, halvings
            if 1 < halvings < len(channels) - 1:
                yield 9 * after * after, halvings
        yield self.image[0] ** 2, len(channels) - 1

    def _text(self) -> float:
        return _tower(self.text, self.prompt_tokens) + 2 * self.text[0] * self.projection

    def _fusion(self, images: int, prompts: int) -> float:
        width, inner, blocks = self.fusion
        of_image, of_text = images * (1 + self.regions), prompts * self.prompt_tokens
        joint = 1 + self.regions + self.prompt_tokens
        # Each side once: projection, and queries, keys and values of the first block.
        sides = 2 * of_image * self.image[0] * width + 2 * of_text * self.text[0] * width
        sides += 6 * (of_image + of_text) * width**2
        # Then every pair. Only two rows of the last block go through its MLP and to the score.
        whole = 4 * joint**2 * width + 2 * joint * width**2 + 4 * joint * width * inner
        again = 6 * joint * width**2
        pair = 4 * 2 * width**2 + 4 * 2 * width * inner
        if blocks == 1:
            return sides + images * prompts * (pair + 4 * 2 * joint * width)
        # The heads of these rows attend to whole tokens: keys and values are computed from the rows.
        pair += 4 * 2 * self.fusion_heads * joint * width + 6 * 2 * width**2
        pair += (blocks - 1) * whole + (blocks - 2) * again
        return sides + images * prompts * pair

    def _image_weights(self) -> float:
        width = self.image[0]
        stem = sum(weights for weights, _ in self._stem())
        return _tower_weights(self.image) + stem + width * (3 * self.patch**2 + self.patches + 1 + self.projection)

    def _fusion_weights(self) -> float:
        width = self.fusion[0]
        return _tower_weights(self.fusion) + width * (self.image[0] + self.text[0] + 2 * width)

    def _fusion_traffic(self, case: Case) -> float:
        tokens = case.batch * (1 + self.regions) * self.image[0] + case.prompts * self.prompt_tokens * self.text[0]
        return 4.0 * (tokens + case.batch * case.prompts * (1 + self.regions))


def _tower(sizes: tuple[int, int, int], tokens: int) -> float:
    width, inner, blocks = sizes
    return blocks * (8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * inner)


def _tower_weights(sizes: tuple[int, int, int]) -> float:
    width, inner, blocks = sizes
    return blocks * (4 * width**2 + 2 * width * inner)
