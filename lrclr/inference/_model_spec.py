"""The description of a model that a classifier needs: of a bundle, a checkpoint or a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lrclr.errors import NotSupportedError, UsageError
from lrclr.inference._scores import ScoreCalibration, check_alpha
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet, require_finding_set

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.bundle import Bundle
    from lrclr.checkpoints import Checkpoint
    from lrclr.text import ClipTokenizer

_CHECKPOINT_BATCH = 32


@dataclass(frozen=True)
class ModelSpec:
    """A model without its graphs.

    Attributes:
        preprocess: from a radiograph to the image encoder's input.
        tokenizer: from prompts to the text encoder's input; None for a model in a server.
        findings: the model's own.
        patch_size: side of a patch in pixels of the model's input.
        max_batch: most images that the image encoder takes at once.
        alpha: weight of the local score in effect: 0 while the fusion head is not trained.
        calibration: from scores to probabilities.
        fusion_trained: whether the fusion head is trained.
        kind: where the model is.
        sha256: SHA-256 of the bundle's manifest or the checkpoint's weights. "" for a model that is only in memory.
        checkpoint_sha256: SHA-256 of the original weights. It is equal for a checkpoint and every bundle of it.
        precision: type in which matrix products are computed, such as ``"fp16"``.
        assumed: settings that the weights do not record, with the values that were assumed: one clause each.
        members: names of the members of an ensemble, in order; empty for a single network.
        regions_from: name of the member of an ensemble that gives the regions.
        source: kind of the checkpoint, as `Checkpoint.source`; "" if it is not known.
        causal: whether a token of the text encoder attends to earlier ones only; see `lrclr.model.towers.TextTower`.
    """

    preprocess: PreprocessSpec
    tokenizer: ClipTokenizer | None
    findings: FindingSet
    patch_size: int
    max_batch: int
    alpha: float
    calibration: ScoreCalibration
    fusion_trained: bool
    kind: Literal["bundle", "checkpoint", "server"]
    sha256: str
    checkpoint_sha256: str
    precision: str
    assumed: tuple[str, ...] = ()
    causal: bool = True
    members: tuple[str, ...] = ()
    regions_from: str = ""
    source: str = ""

    def asked(self, findings: FindingSet | None) -> FindingSet:
        """The findings to predict: those of the model if `findings` is None.

        Raises:
            UsageError: it is not a `FindingSet`.
        """
        if findings is None:
            return self.findings
        require_finding_set(findings)
        return findings

    def checked_alpha(self, alpha: float | None) -> float:
        """The weight of the local score to use: that of the model if `alpha` is None.

        Raises:
            UsageError: it is not in [0, 1], or not 0 although the fusion head is not trained.
        """
        if alpha is None:
            return self.alpha
        check_alpha(alpha)
        if alpha > 0.0 and not self.fusion_trained:
            raise UsageError(
                f"alpha is {alpha}, but the fusion head of this {self.kind} is not trained",
                why="its local scores have no meaning",
                fix="Leave alpha at 0, or use a checkpoint with a trained fusion head.",
            )
        return alpha

    def require_embeddings(self) -> None:
        """Check that the model has embeddings.

        Raises:
            NotSupportedError: it is an ensemble.
        """
        if self.members:
            raise NotSupportedError(
                "an ensemble has no embeddings",
                why="each member has its own embedding space, and a mean of vectors of different spaces has no meaning",
                fix="Use a bundle of one of its checkpoints or, in Python, one of the `members` of the classifier.",
            )

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ModelSpec:
        """Describe the model of a bundle."""
        manifest = bundle.manifest
        return cls(
            preprocess=bundle.preprocess,
            tokenizer=bundle.tokenizer,
            findings=bundle.findings,
            patch_size=bundle.patch_size,
            max_batch=manifest.max_batch,
            alpha=float(manifest.scoring["alpha"]),
            calibration=ScoreCalibration.from_dict(manifest.scoring),
            fusion_trained=bool(manifest.scoring["fusion_trained"]),
            kind="bundle",
            sha256=bundle.sha256,
            checkpoint_sha256=manifest.checkpoint["sha256"],
            precision=manifest.precision,
            assumed=tuple(manifest.model.get("assumed") or ()),
            causal=manifest.tokenizer["causal"],
            members=manifest.member_names,
            regions_from="" if manifest.ensemble is None else manifest.ensemble["regions_from"],
            source=manifest.checkpoint["source"],
        )

    @classmethod
    def of_server(cls, description: Mapping[str, Any]) -> ModelSpec:
        """Describe the model of a server, from what `lrclr.triton.client.Client.describe` returns."""
        return cls(
            preprocess=PreprocessSpec.from_dict(description["preprocess"]),
            tokenizer=None,
            findings=FindingSet.loads(description["findings"]),
            patch_size=int(description["patch_size"]),
            max_batch=int(description["max_batch"]),
            alpha=float(description["alpha"]),
            calibration=ScoreCalibration.from_dict(description),
            fusion_trained=bool(description["fusion_trained"]),
            kind="server",
            sha256=str(description["bundle"]),
            checkpoint_sha256=str(description["checkpoint"]),
            precision=str(description["precision"]),
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> ModelSpec:
        """Describe the model of a checkpoint."""
        config = checkpoint.config
        return cls(
            preprocess=checkpoint.preprocess,
            tokenizer=checkpoint.tokenizer,
            findings=checkpoint.findings,
            patch_size=int(config.vision_config.patch_size),
            max_batch=_CHECKPOINT_BATCH,
            alpha=float(config.effective_alpha),
            calibration=ScoreCalibration.from_dict(config.to_dict()),
            fusion_trained=bool(config.fusion_trained),
            kind="checkpoint",
            sha256=checkpoint.sha256,
            checkpoint_sha256=checkpoint.sha256,
            precision="fp32",
            assumed=checkpoint.assumed,
            causal=checkpoint.model.text_model.causal,
            source=checkpoint.source,
        )
