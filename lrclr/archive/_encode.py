"""Encoding: from images to scores, in batches of constant size."""

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


@dataclass(frozen=True)
class Encoder:
    """Scores images. Safe to call from several threads. Can be pickled: the other process opens the bundle's folder.

    The last bit of a result can depend on the batch size and on an image's position in the batch. A batch is therefore
    always full, and consists of the same images in every run.

    Attributes:
        bundle: the bundle; after pickling its folder.
        bundle_sha256: hash that its manifest must have.
        engine: what runs the graphs.
        findings: findings to score.
        alpha: weight of the local score.
        batch_size: images of a batch.
    """

    bundle: Bundle | Path
    bundle_sha256: str
    engine: EngineOptions
    findings: FindingSet
    alpha: float
    batch_size: int

    def __call__(self, decoded: Sequence[Decoded]) -> list[Outcome]:
        """One outcome for each image of a batch, in order.

        Args:
            decoded: at most `batch_size` images.

        Raises:
            EngineError: the engine failed. A value that is not finite is a failure of its image only.
        """
        images = [one for one in decoded if one.canvas is not None]
        answered = iter(self._batch(images) if images else [])
        return [Outcome(one, failure=one.failure) if one.canvas is None else next(answered) for one in decoded]

    def __getstate__(self) -> dict[str, object]:
        # Without the classifier: the other process opens its own.
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        path = self.bundle.path if isinstance(self.bundle, Bundle) else self.bundle
        return {**state, "bundle": path.absolute()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    @cached_property
    def classifier(self) -> ZeroShotClassifier:
        """The opened bundle."""
        bundle = self.bundle if isinstance(self.bundle, Bundle) else Bundle(self.bundle)
        opened = ZeroShotClassifier(bundle, open_engine(bundle, self.engine))
        if opened.spec.sha256 != self.bundle_sha256:
            raise BundleError(
                f"the bundle {bundle.path} is a different one here",
                why="its manifest is not the one with which the run began",
                fix="Give every machine the same bundle, and do not change it during a run.",
            )
        return opened

    def _batch(self, batch: Sequence[Decoded]) -> list[Outcome]:
        bare = [replace(one, canvas=None, content=None) for one in batch]
        try:
            answers = self._answers(batch)
        except NonFiniteError as error:
            if len(batch) > 1:
                # One image causes it; the others get their scores.
                return [outcome for one in batch for outcome in self._batch([one])]
            return [Outcome(bare[0], failure=Failure(type(error).__name__, str(error)))]
        return [Outcome(one, answers.of_image(place)) for place, one in enumerate(bare)]

    def _answers(self, batch: Sequence[Decoded]) -> Answers:
        spec = self.classifier.spec.preprocess
        pixels = [from_canvas(one.canvas, spec) for one in batch if one.canvas is not None]
        full = pixels + [pixels[-1]] * (self.batch_size - len(pixels))
        return self.classifier.answer_pixels(np.stack(full), self.findings, self.alpha)
