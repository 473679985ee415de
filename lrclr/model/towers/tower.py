"""What an image or text tower declares about itself, and what it computes.

A tower is a module of the network with the parameters of the original class, under that class's names. `LrclrModel`,
the exporter, int8 and the gates use towers only through the members below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.model.attention import AttentionRecorder


class LinearGroup(NamedTuple):
    """Linear layers that share their input.

    Attributes:
        name: name of the group.
        layers: names of the layers, within the tower.
        norm: name of the LayerNorm whose output only these layers read; None where other modules read it too.
    """

    name: str
    layers: tuple[str, ...]
    norm: str | None


class NetworkConfig(Protocol):
    """What a tower reads of `lrclr.model.LrclrConfig`."""

    vision_config: Any
    text_config: Any
    text_end: str
    text_pooler: bool


class _Initialised:
    """Lets transformers draw a tower's weights as it draws those of its own classes, which towers are."""

    @classmethod
    def is_custom_code(cls) -> bool:
        return False


class VisionTower(_Initialised, nn.Module, ABC):
    """An image tower of transformer blocks over patches.

    Its blocks take ``(hidden, mask, recorder=...)`` and compute attention through `lrclr.model.attention`.

    Attributes:
        config_class: class of its configuration. `model_type` names the tower.
        prefix: tokens before the patches: 1 with a CLS token, 0 without. With one, the rollout starts from that token's
            row of the last block; without, `read` gives the row it starts from.
        prunable: whether the last block may be computed for CLS and the selected patches alone.
        projects: whether `pool` gives the embedding itself, so that no projection follows.
    """

    # Modules of the original class; which of them there are depends on it.
    embeddings: Any
    encoder: Any
    pre_layrnorm: Any
    post_layernorm: Any
    head: Any
    pooler: Any

    config_class: ClassVar[Any]
    prefix: ClassVar[int] = 1
    prunable: ClassVar[bool] = True
    projects: ClassVar[bool] = False

    @classmethod
    def build(cls, config: NetworkConfig) -> Self:
        """Make the tower of a network, with random weights."""
        return cls(config.vision_config)

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the tokens ``[B, N, D]`` that the first block takes."""

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        layers: nn.ModuleList = self.encoder.layers
        return layers

    def read(self, hidden: Tensor, recorder: AttentionRecorder) -> Tensor | None:  # noqa: ARG002 - of subclasses
        """Read the last block's tokens ``[B, N, D]`` where no CLS token does.

        Returns:
            The global token ``[B, 1, D]``; its attention on the patches is given to `recorder`. None where the first
            token is the global one.
        """
        return None

    @abstractmethod
    def pool(self, token: Tensor) -> Tensor:
        """The global token ``[B, D]`` to what the projection takes."""

    def linear_groups(self) -> Iterator[LinearGroup]:
        """The linear layers of the blocks, grouped by input, block by block."""
        return pre_norm_groups(self.blocks)


class TextTower(_Initialised, nn.Module, ABC):
    """A text tower.

    Attributes:
        config_class: class of its configuration. `model_type` names the tower.
        causal: whether a token attends to earlier tokens only. The gates then put noise after a prompt's end.
        padding_visible: whether padding changes a prompt's embedding. Prompts then always have the tower's full length,
            and the exported graph takes no other.
        projects: whether `encode` gives the embedding itself, so that no projection follows.
    """

    # Modules and settings of the original class; which of them there are depends on it.
    embeddings: Any
    encoder: Any
    final_layer_norm: Any
    head: Any
    pooler: Any
    eos_token_id: Any
    text_end: str
    pad_id: int

    config_class: ClassVar[Any]
    causal: ClassVar[bool]
    padding_visible: ClassVar[bool] = False
    projects: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def build(cls, config: NetworkConfig) -> TextTower:
        """The tower of a network, with random weights."""

    @abstractmethod
    def encode(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts ``[P, T]`` to what the projection takes, ``[P, D]``, and to the tokens ``[P, T, D]``."""

    @classmethod
    def longest(cls, config: Any) -> int:
        """The most tokens of a prompt that a tower with this configuration reads."""
        return int(config.max_position_embeddings)

    def linear_groups(self) -> Iterator[LinearGroup]:
        """The linear layers of the blocks, grouped by input, block by block."""
        return pre_norm_groups(self.encoder.layers)


def pre_norm_groups(blocks: nn.ModuleList) -> Iterator[LinearGroup]:
    """The groups of blocks with CLIP's names, which normalise what comes into attention and MLP."""
    for number in range(len(blocks)):
        block = f"encoder.layers.{number}"
        attention = tuple(f"{block}.self_attn.{name}_proj" for name in "qkv")
        yield LinearGroup(f"{block}.self_attn.qkv", attention, f"{block}.layer_norm1")
        yield LinearGroup(f"{block}.self_attn.out_proj", (f"{block}.self_attn.out_proj",), None)
        yield LinearGroup(f"{block}.mlp.fc1", (f"{block}.mlp.fc1",), f"{block}.layer_norm2")
        yield LinearGroup(f"{block}.mlp.fc2", (f"{block}.mlp.fc2",), None)
