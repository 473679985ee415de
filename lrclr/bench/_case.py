"""`Case`: one measured configuration."""

from __future__ import annotations

from typing import Final, Literal, get_args

from lrclr._records import Record

Stage = Literal["image_encoder", "text_encoder", "fusion_head", "classifier", "files"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
_TITLES: Final = {"classifier": "pixels to findings", "files": "files to findings"}


class Case(Record, frozen=True):
    """What one call does, on which target, and how often it is called.

    Attributes:
        target: label of the target.
        stage: a graph; ``"classifier"``: preprocessed pixels to findings, with cached features of the prompts as in
            production; ``"files"``: encoded files to findings.
        batch: images of a call; 0 for the text encoder.
        prompts: number of prompts; 0 for the image encoder.
        callers: threads that call at once.
        rate: open loop: calls a second, at random times. None for closed loop: each caller calls again as soon as it
            has its answer.
        share: `rate` as a share of the calls a second of the closed loop, if it was given so.
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
        """Images of a call, or prompts for the text encoder."""
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
        """Key that equal cases of different targets share."""
        return (self.stage, self.batch, self.prompts, self.callers, self.rate)
