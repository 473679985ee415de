"""Runs of the three graphs at the sizes of a bundle's profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrclr.contract import GRAPHS
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lrclr.bundle import Golden
    from lrclr.engines import Engine

Outputs = dict[str, NDArray[Any]]
Rows = NDArray[np.int64]
USUAL_BATCH = 8
_FEW_PROMPTS = 2
_FEWEST_TOKENS = 2  # that the fusion head takes


class ContractError(Exception):
    """The outputs of a graph have other names, types or shapes than its contract."""

    def __init__(self, graph: str, wrong: list[str]) -> None:
        super().__init__(f"{graph}: {'; '.join(wrong)}")
        self.graph, self.wrong = graph, wrong


@dataclass(frozen=True)
class Sizes:
    """Sizes at which the gates run.

    Attributes:
        usual_batch, largest_batch: numbers of images.
        most_prompts: largest number of prompts.
        usual_tokens: number of tokens of the longest prompt of the bundle's findings, without padding.
        fixed_length: whether the text encoder takes prompts of one length only.
    """

    usual_batch: int
    largest_batch: int
    most_prompts: int
    usual_tokens: int
    fixed_length: bool = False

    @classmethod
    def of(
        cls,
        golden: Golden,
        findings_prompts: int,
        profiles: Sequence[Mapping[str, Sequence[int]]] | None,
        *,
        fixed_length: bool,
    ) -> Sizes:
        """The sizes of a bundle.

        Args:
            golden: inputs and outputs, with the lengths of the prompts.
            findings_prompts: number of prompts of the findings.
            profiles: profiles of the manifest. None without a bundle; then no run is larger than `golden`.
            fixed_length: whether the text encoder takes prompts of one length only.
        """
        usual = max(_FEWEST_TOKENS, int(golden.lengths[:findings_prompts].max()))
        if profiles is None:
            images = len(golden["pixel_values"])
            return cls(images, images, len(golden.prompts), usual, fixed_length)
        largest = profiles[-1]["batch"][2]
        return cls(min(USUAL_BATCH, largest), largest, profiles[-1]["prompts"][2], usual, fixed_length)


@dataclass(frozen=True)
class GraphRun:
    """Outputs of one graph, for rows of the golden inputs.

    Attributes:
        where: the size in words; empty for the usual run, with which all others are compared.
        outputs: by name, one row for each of `images` (or of `prompts`, for the text encoder).
        images: numbers of the golden images.
        prompts: numbers of the golden prompts.
    """

    where: str
    outputs: Outputs
    images: Rows
    prompts: Rows


class GraphRuns:
    """Runs graphs on golden inputs, checks the form of their outputs, and keeps them.

    Args:
        engine: runs the graphs.
        golden: the inputs.
        sizes: sizes of the runs.

    Attributes:
        engine: as given.
        image, text, fusion: runs of each graph. The first run has every golden input.
    """

    def __init__(self, engine: Engine, golden: Golden, sizes: Sizes) -> None:
        self.engine, self._golden, self._sizes = engine, golden, sizes
        self.image: list[GraphRun] = []
        self.text: list[GraphRun] = []
        self.fusion: list[GraphRun] = []

    def run_usual(self) -> None:
        """Run every golden input through every graph."""
        prompts = self._all_prompts
        images = self.run_images()
        self._run_text("", prompts, self._sizes.most_prompts, self._golden["input_ids"].shape[1])
        self._run_fusion("", images, prompts, self._golden["input_ids"].shape[1])

    def run_images(self) -> Rows:
        """Run every golden image through the image encoder. Returns the numbers of the images."""
        self._run_image("", self._all_images, self._sizes.usual_batch)
        return self._all_images

    def run_corners(self, findings_prompts: int) -> None:
        """Run the ends of the profiles: one and the largest number of images, prompts and tokens.

        Only one axis at a time is at its largest. All together would take more memory and time than a request may.
        """
        golden, sizes = self._golden, self._sizes
        usual, longest = sizes.usual_tokens, golden["input_ids"].shape[1]
        images, prompts = self._all_images, self._all_prompts
        short = prompts[golden.lengths <= usual]
        many, one = np.resize(short, sizes.most_prompts), short[:1]
        text_tokens = longest if sizes.fixed_length else usual
        self._run_image("batch 1", images, 1)
        batch = np.resize(images[::-1], sizes.largest_batch)
        self._run_image(f"batch {len(batch)}", batch, len(batch))
        if not sizes.fixed_length:
            self._run_text_alone()
        self._run_text(f"1 prompt, {longest} tokens", one, 1, longest)
        self._run_text(f"{len(many)} prompts, {text_tokens} tokens", many, len(many), text_tokens)
        asked = prompts[:findings_prompts]
        self._run_text(f"{len(asked)} prompts, {text_tokens} tokens", asked, len(asked), text_tokens)
        self._run_fusion(f"{len(asked)} prompts, {usual} tokens", images, asked, usual)
        for image in images:
            self._run_fusion(f"batch 1, {len(asked)} prompts", image[None], asked, usual)
        shortest = prompts[golden.lengths <= _FEWEST_TOKENS][:1]
        self._run_fusion("batch 1, 1 prompt, 2 tokens", images[:1], shortest, _FEWEST_TOKENS)
        self._run_fusion(f"batch 1, 1 prompt, {longest} tokens", images[-1:], one, longest)
        self._run_fusion(f"batch 1, {len(many)} prompts", images[-1:], many, usual)
        self._run_fusion(f"batch {len(batch)}", batch, short[:_FEW_PROMPTS], usual, largest=True)

    def takes_another_length(self) -> bool:
        """Whether the text encoder answers for prompts of another length than the one that it declares."""
        shorter = np.ascontiguousarray(self._golden["input_ids"][:1, :-1])
        try:
            self.engine.run("text_encoder", {"input_ids": shorter})
        except EngineError:
            return False
        return True

    def run_noise_after_eot(self) -> GraphRun:
        """Run the text encoder with other tokens in place of the padding, which a causal encoder ignores."""
        golden = self._golden
        longest = golden["input_ids"].shape[1]
        tokens = longest if self._sizes.fixed_length else min(self._sizes.usual_tokens + 1, longest)
        rows = self._all_prompts[golden.lengths < tokens]
        ids, mask = golden["input_ids"][rows, :tokens], golden["text_mask"][rows, :tokens].astype(bool)
        other = 1 + ids[:, :1] // 2
        # The padding itself can have this number, as in RoBERTa.
        noisy = np.where(mask, ids, np.where(ids == other, other + 1, other))
        outputs = _joined(
            [
                self.run("text_encoder", {"input_ids": noisy[some]})
                for some in _parts(len(rows), self._sizes.most_prompts)
            ]
        )
        return GraphRun("noise after EOT", outputs, np.array([], np.int64), rows)

    def run(self, graph: str, inputs: dict[str, NDArray[Any]]) -> Outputs:
        """Outputs of a graph.

        Raises:
            ContractError: they differ from the contract of the graph.
            EngineError: the engine failed.
        """
        outputs = self.engine.run(graph, inputs)
        wrong = _unlike_contract(outputs, self._contract(graph, inputs))
        if wrong:
            raise ContractError(graph, wrong)
        return outputs

    @property
    def _all_images(self) -> Rows:
        return np.arange(len(self._golden["pixel_values"]))

    @property
    def _all_prompts(self) -> Rows:
        return np.arange(len(self._golden.prompts))

    def _run_image(self, where: str, images: Rows, batch: int) -> None:
        pixels = self._golden["pixel_values"]
        parts = [
            self.run("image_encoder", {"pixel_values": np.ascontiguousarray(pixels[images[some]])})
            for some in _parts(len(images), batch)
        ]
        self.image.append(GraphRun(where, _joined(parts), images, np.array([], np.int64)))

    def _run_text(self, where: str, prompts: Rows, batch: int, tokens: int) -> None:
        ids = self._golden["input_ids"][:, :tokens]
        parts = [
            self.run("text_encoder", {"input_ids": np.ascontiguousarray(ids[prompts[some]])})
            for some in _parts(len(prompts), batch)
        ]
        self.text.append(GraphRun(where, _joined(parts), np.array([], np.int64), prompts))

    def _run_text_alone(self) -> None:
        """Run each prompt alone, without padding."""
        golden, longest = self._golden, self._golden["input_ids"].shape[1]
        parts = []
        for ids, length in zip(golden["input_ids"], golden.lengths, strict=True):
            outputs = self.run("text_encoder", {"input_ids": ids[None, :length]})
            tokens = np.pad(outputs["text_tokens"], ((0, 0), (0, longest - length), (0, 0)))
            parts.append({**outputs, "text_tokens": tokens})
        self.text.append(
            GraphRun("1 prompt without padding", _joined(parts), np.array([], np.int64), self._all_prompts)
        )

    def _run_fusion(self, where: str, images: Rows, prompts: Rows, tokens: int, *, largest: bool = False) -> None:
        golden = self._golden
        batch = self._sizes.largest_batch if largest else self._sizes.usual_batch
        inputs: dict[str, NDArray[Any]] = {
            "text_tokens": np.ascontiguousarray(golden["text_tokens"][prompts, :tokens]),
            "text_mask": np.ascontiguousarray(golden["text_mask"][prompts, :tokens]),
        }
        parts = []
        for some in _parts(len(images), batch):
            rows = np.ascontiguousarray(golden["region_tokens"][images[some]])
            by_prompt = [
                self.run("fusion_head", {"region_tokens": rows, **{name: array[few] for name, array in inputs.items()}})
                for few in _parts(len(prompts), self._sizes.most_prompts)
            ]
            parts.append({name: np.concatenate([part[name] for part in by_prompt], axis=1) for name in by_prompt[0]})
        self.fusion.append(GraphRun(where, _joined(parts), images, prompts))

    def _contract(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Expected shape and type of each output; the fixed sizes are taken from the golden data."""
        tensors = GRAPHS[graph]
        pairs = [(tensor.axes, self._golden[tensor.name].shape) for tensor in tensors.outputs]
        pairs += [(tensor.axes, inputs[tensor.name].shape) for tensor in tensors.inputs]
        sizes = {axis: size for axes, shape in pairs for axis, size in zip(axes, shape, strict=True)}
        return {
            tensor.name: (tuple(int(sizes[axis]) for axis in tensor.axes), np.dtype(tensor.dtype))
            for tensor in tensors.outputs
        }


def _unlike_contract(outputs: Mapping[str, Any], contract: Mapping[str, tuple[tuple[int, ...], Any]]) -> list[str]:
    wrong = []
    for name, (shape, dtype) in contract.items():
        if name not in outputs:
            wrong.append(f"{name} is missing")
        elif outputs[name].shape != shape or outputs[name].dtype != dtype:
            found = f"{outputs[name].dtype} {list(outputs[name].shape)}"
            wrong.append(f"{name} is {found} instead of {dtype} {list(shape)}")
    wrong += [f"{name} is not in the contract" for name in outputs.keys() - contract.keys()]
    return wrong


def _parts(count: int, most: int) -> Iterator[slice]:
    return (slice(start, start + most) for start in range(0, count, most))


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
