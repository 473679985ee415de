"""Encoding: from pictures to scores, in batches whose size never varies."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lrclr.archive._outcome import Failure, Outcome
from lrclr.auto import open_engine
from lrclr.bundle import Bundle
from lrclr.errors import BundleError, NonFiniteError
from lrclr.inference import Answers, ZeroShotClassifier
from lrclr.preprocessing import from_canvas

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.archive._outcome import Decoded
    from lrclr.engines import EngineOptions
    from lrclr.text import FindingSet

__all__ = ["Encoder"]


@dataclass(frozen=True)
class Encoder:
    """Answers for pictures. Safe to call from several threads; can be pickled, and opens its bundle when first used.

    A graph's result can depend, in its last bit, on the number of images it sees at once and on the place among them.
    So a batch is always full, and is filled in the order of its part.

    Attributes:
        bundle: its folder.
        bundle_sha256: of the manifest that it must have.
        engine: what runs the graphs.
        findings: what to ask for.
        alpha: weight of the local score.
        batch_size: images that the graphs see at once.
    """

    bundle: Path
    bundle_sha256: str
    engine: EngineOptions
    findings: FindingSet
    alpha: float
    batch_size: int

    def __call__(self, decoded: Sequence[Decoded]) -> list[Outcome]:
        """One outcome for each, in order.

        Raises:
            EngineError: the engine failed; a value that is not finite is its image's failure.
        """
        outcomes: dict[int, Outcome] = {}
        pictures: list[int] = []
        for position, one in enumerate(decoded):
            if one.canvas is None:
                outcomes[position] = Outcome(one, failure=one.failure)
            else:
                pictures.append(position)
        for start in range(0, len(pictures), self.batch_size):
            batch = pictures[start : start + self.batch_size]
            outcomes.update(zip(batch, self._batch([decoded[position] for position in batch]), strict=True))
        return [outcomes[position] for position in range(len(decoded))]

    def __getstate__(self) -> dict[str, object]:
        # The session stays here; the other process opens its own.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    @cached_property
    def classifier(self) -> ZeroShotClassifier:
        """Of the bundle."""
        bundle = Bundle(self.bundle)
        opened = ZeroShotClassifier(bundle, open_engine(bundle, self.engine))
        if opened.spec.sha256 != self.bundle_sha256:
            raise BundleError(
                f"the bundle {self.bundle} is another one here",
                why="its manifest is not the one that the run began with",
                fix="Give every machine the same bundle, and leave it alone while a run lasts.",
            )
        return opened

    def _batch(self, batch: Sequence[Decoded]) -> list[Outcome]:
        bare = [replace(one, canvas=None) for one in batch]
        try:
            answers = self._answers(batch)
        except NonFiniteError as error:
            if len(batch) > 1:
                # One image's fault is not its neighbours'.
                return [outcome for one in batch for outcome in self._batch([one])]
            return [Outcome(bare[0], failure=Failure(type(error).__name__, str(error)))]
        return [Outcome(one, answers.of_image(place)) for place, one in enumerate(bare)]

    def _answers(self, batch: Sequence[Decoded]) -> Answers:
        spec = self.classifier.spec.preprocess
        pixels = [from_canvas(one.canvas, spec) for one in batch if one.canvas is not None]
        full = pixels + [pixels[-1]] * (self.batch_size - len(pixels))
        return self.classifier.answer_pixels(np.stack(full), self.findings, self.alpha)
