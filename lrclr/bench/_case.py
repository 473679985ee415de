"""One configuration that is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from lrclr.contract import GRAPHS

__all__ = ["STAGES", "Case", "Stage"]

Stage = Literal["image_encoder", "text_encoder", "fusion_head", "classifier", "files"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
_TITLES: Final = {"classifier": "pixels to findings", "files": "files to findings"}


@dataclass(frozen=True, slots=True)
class Case:
    """What is done in one call, by whom, and how often.

    Attributes:
        target: label of what does it.
        stage: a graph; ``"classifier"``: preprocessed pixels to findings, the prompts' features being cached as they
            are in use; ``"files"``: encoded files to findings.
        batch: images a call; 0 for the text encoder.
        prompts: that are asked for; 0 for the image encoder.
        callers: threads that call at once.
        rate: of open loop: calls that arrive a second, at random moments; None for closed loop, where each caller calls
            again as soon as it was answered.
        share: that `rate` is of the calls a second that the closed loop reached, if it was given so.
    """

    target: str
    stage: Stage
    batch: int
    prompts: int
    callers: int = 1
    rate: float | None = None
    share: float | None = None

    @property
    def items(self) -> int:
        """What a call is counted as: its images, or its prompts for the text encoder."""
        return self.batch or self.prompts

    @property
    def unit(self) -> str:
        """What `items` are."""
        return "images" if self.batch else "prompts"

    @property
    def what(self) -> str:
        """The case without its target, in words."""
        parts = [_TITLES.get(self.stage, self.stage.replace("_", " "))]
        if self.batch:
            parts.append(f"batch {self.batch}")
        if self.prompts:
            parts.append(f"{self.prompts} prompts")
        if self.callers > 1:
            parts.append(f"{self.callers} callers")
        if self.share is not None:
            parts.append(f"at {self.share:.0%} of capacity")
        elif self.rate is not None:
            parts.append(f"at {self.rate:g} calls/s")
        return ", ".join(parts)

    @property
    def is_graph(self) -> bool:
        """Whether it is one graph alone."""
        return self.stage in GRAPHS

    @property
    def key(self) -> tuple[str, int, int, int, float | None]:
        """What two cases of different targets share that do the same; of open loop, the rate in calls a second."""
        return (self.stage, self.batch, self.prompts, self.callers, self.rate)
