"""How a source is scored, and what a run tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lrclr.engines import EngineOptions
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.text import FindingSet

__all__ = ["LocalOptions", "RayOptions", "ScoreOptions", "ScoreProgress", "ScoreSummary"]

_ON_GPU = 32


@dataclass(frozen=True)
class LocalOptions:
    """Scoring in this process.

    Attributes:
        workers: threads, each of which decodes images and runs the engine on them; None for one a core.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError("scoring needs at least one worker")


@dataclass(frozen=True)
class RayOptions:
    """Scoring on a Ray cluster, all of whose machines see the source and the bundle under the same paths.

    Attributes:
        address: of a cluster that is there, such as ``"10.0.0.1:6379"`` or ``"auto"``; None for one on this machine
            that ends with the run.
        actors: processes with an engine of their own; None for as many as the cluster has room for.
        actor_cpus: cores that each of them counts for. What it leaves is for decoding.
        actor_gpus: GPUs that each counts for, or a fraction of one.
        decode_cpus: cores that a decoding task counts for.
    """

    address: str | None = None
    actors: int | None = None
    actor_cpus: float = 0.75
    actor_gpus: float = 0.0
    decode_cpus: float = 0.25

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UsageError("scoring needs at least one actor")
        if self.actor_cpus < 0 or self.actor_gpus < 0 or self.decode_cpus <= 0:
            raise UsageError("an actor's cores and GPUs must not be negative, and decoding needs some of a core")
        if self.actor_gpus > 1 and self.actor_gpus != int(self.actor_gpus):
            raise UsageError(
                f"an actor cannot have {self.actor_gpus} GPUs", fix="Give a fraction of one, or whole ones."
            )


@dataclass(frozen=True)
class ScoreOptions:
    """How a source is scored.

    Attributes:
        bundle: its folder.
        findings: what to ask for; None for the bundle's own.
        alpha: weight of the local score; None for the bundle's.
        frame: of files that hold several, where the source names none.
        exact: read files in full; see `lrclr.images.read_for_model`.
        engine: what runs the graphs. Its threads are 1 if not given: other threads take other images meanwhile.
        batch_size: images that the graphs see at once; None for 1 on a processor and 32 on a GPU.
        rows_per_part: about how many rows a part shall have. It counts when a folder is begun.
        rescore: score everything again if the folder's rows were made with other settings.
        recheck: hash every file again, instead of those only whose size or times changed.
        runner: what decodes and runs the engine: threads of this process, or a Ray cluster.
    """

    bundle: Path
    findings: FindingSet | None = None
    alpha: float | None = None
    frame: int | None = None
    exact: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)
    batch_size: int | None = None
    rows_per_part: int = 2048
    rescore: bool = False
    recheck: bool = False
    runner: LocalOptions | RayOptions = field(default_factory=LocalOptions)

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError("a batch needs at least one image")
        if self.rows_per_part < 1:
            raise UsageError("a part needs at least one row")

    def images_at_once(self, graph_engine: str) -> int:
        """The batch size in effect."""
        on_cpu = graph_engine == "onnxruntime" and self.engine.provider == "cpu"
        return self.batch_size or (1 if on_cpu else _ON_GPU)


@dataclass(frozen=True)
class ScoreProgress:
    """How far a run is.

    Attributes:
        done: images looked at.
        total: images to look at.
        failures: reasons, and how often, up to now.
        seconds: since the work began.
    """

    done: int
    total: int
    failures: Counter[str]
    seconds: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None before anything is done."""
        return (self.total - self.done) / self.rate if self.done and self.seconds > 0 else None


@dataclass(frozen=True)
class ScoreSummary:
    """What a run did, and what the folder holds now.

    Attributes:
        images: in the source; each has exactly one row.
        scored: that got a new answer.
        unchanged: whose old row was found to hold, by their hash.
        kept: whose old row holds by size and times.
        gone: rows of images that are no longer in the source; kept.
        failures: reasons for which images have no scores, and how often, old ones and new.
        parts: that were written.
        seconds: that the run took.
        fusion_trained: whether the bundle's fusion head was ever tuned.
        passed_over: what the source's folder holds beside images: a count for each kind; see
            `lrclr.images.find_images`.
        exact: whether files were read in full.
    """

    images: int
    scored: int
    unchanged: int
    kept: int
    gone: int
    failures: Counter[str] = field(default_factory=Counter)
    parts: int = 0
    seconds: float = 0.0
    fusion_trained: bool = True
    passed_over: Counter[str] = field(default_factory=Counter)
    exact: bool = False

    @property
    def failed(self) -> int:
        """Images without scores."""
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        # Not by asdict, which takes a Counter's items for what it shall count.
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            **content,
            "failures": dict(self.failures),
            "passed_over": dict(self.passed_over),
            "failed": self.failed,
        }
