"""Measured configurations."""

from __future__ import annotations

from typing import Final, Literal, get_args

from lrclr._records import Record

__all__ = ["STAGES", "Case", "Stage"]

Stage = Literal["image_encoder", "text_encoder", "fusion_head", "classifier", "files"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
_TITLES: Final = {"classifier": "pixels to findings", "files": "files to findings"}


class Case(Record, frozen=True):
    """What one call does, which target runs it, and how often it is called.

    Attributes:
        target: label of the target.
        stage: a graph; ``"classifier"``: preprocessed pixels to findings, with the features of the prompts cached as
            they are in use; ``"files"``: encoded files to findings.
        batch: images a call; 0 for the text encoder.
        prompts: number of prompts; 0 for the image encoder.
        callers: threads that call at the same time.
        rate: in open loop, the calls that arrive per second, at random moments. None in closed loop, where each caller
            calls again as soon as it has its answer.
        share: `rate` as a share of the calls per second that the closed loop reached; None if the rate was given in
            calls per second.
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
        """Number of images of a call; for the text encoder, number of prompts."""
        return self.batch or self.prompts

    @property
    def unit(self) -> str:
        """Unit of `items`."""
        return "images" if self.batch else "prompts"

    @property
    def what(self) -> str:
        """The case in words, without its target."""
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
    def key(self) -> tuple[str, int, int, int, float | None]:
        """Equal for cases of different targets that do the same work."""
        return (self.stage, self.batch, self.prompts, self.callers, self.rate)
