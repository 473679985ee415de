"""Options, progress and summary of `score`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from lrclr.auto import named_options
from lrclr.bundle import Bundle
from lrclr.engines import CPU_ENGINES, EngineOptions
from lrclr.errors import UsageError
from lrclr.images._read import checked_frame

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.text import FindingSet

_ON_GPU = 32


@dataclass(frozen=True)
class LocalOptions:
    """Scoring in this process.

    Attributes:
        workers: threads, each of which decodes images and runs the engine on them; None for one a processor.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError("scoring needs at least one worker")


@dataclass(frozen=True)
class RayOptions:
    """Scoring on a Ray cluster. All its machines must see the source and the bundle under the same paths.

    Attributes:
        address: address of an existing cluster, such as ``"10.0.0.1:6379"`` or ``"auto"``; None to start a cluster on
            this machine that ends with the run.
        actors: processes with an engine of their own; None for as many as fit.
        actor_cpus: cores of an actor. The others are for decoding.
        actor_gpus: GPUs of an actor, or a fraction of one.
        decode_cpus: cores of a decoding task.
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
            raise UsageError("an actor's cores and GPUs must not be negative, and decoding needs more than 0 cores")
        if self.actor_gpus > 1 and self.actor_gpus != int(self.actor_gpus):
            raise UsageError(
                f"an actor cannot have {self.actor_gpus} GPUs", fix="Give a whole number, or a fraction of one GPU."
            )


@dataclass(frozen=True)
class ScoreOptions:
    """How a source is scored.

    Attributes:
        bundle: the bundle, or its folder, whose files are then hashed.
        findings: findings to score; None for the bundle's.
        alpha: weight of the local score; None for the bundle's.
        frame: frame of files that hold several, if the source names none.
        exact: read files in full; see `lrclr.images.read_for_model`.
        refuse: codes of `lrclr.input_checks`. An image with such a warning gets no scores.
        engine: what runs the graphs, by default with 1 thread: other threads score other images at the same time.
        batch_size: images of a batch; None for 1 on a processor and 32 on a GPU.
        rows_per_part: about how many rows a part has. Only for a new folder.
        rescore: score everything again if the rows in the folder were made with other settings.
        recheck: hash every file again, instead of only those with another size or other times.
        embeddings: write the embedding of each image, too.
        runner: where the work is done: in threads of this process, or on a Ray cluster.
    """

    bundle: Path | Bundle
    findings: FindingSet | None = None
    alpha: float | None = None
    frame: int | None = None
    exact: bool = False
    refuse: frozenset[str] = frozenset()
    engine: EngineOptions = field(default_factory=EngineOptions)
    batch_size: int | None = None
    rows_per_part: int = 2048
    rescore: bool = False
    recheck: bool = False
    embeddings: bool = False
    runner: LocalOptions | RayOptions = field(default_factory=LocalOptions)

    def __post_init__(self) -> None:
        checked_frame(self.frame)
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError("a batch needs at least one image")
        if self.rows_per_part < 1:
            raise UsageError("a part needs at least one row")

    def opened(self) -> Bundle:
        """The bundle. Only a bundle that was given as a folder is opened here.

        Raises:
            BundleError: the bundle cannot be used.
        """
        return self.bundle if isinstance(self.bundle, Bundle) else Bundle(self.bundle)

    def with_named_engine(self) -> tuple[ScoreOptions, str | None]:
        """The options with the engine that ``"auto"`` stands for on this machine, and the choice in words.

        Raises the errors of `lrclr.auto.choose_engine`.
        """
        bundle = self.opened()
        threads = self.engine.threads or 1
        engine, choice = named_options(bundle, replace(self.engine, threads=threads))
        return replace(self, bundle=bundle, engine=engine), choice

    def images_at_once(self, graph_engine: str) -> int:
        """The batch size in effect."""
        on_cpu = graph_engine in CPU_ENGINES and self.engine.provider == "cpu"
        return self.batch_size or (1 if on_cpu else _ON_GPU)


@dataclass(frozen=True)
class ScoreProgress:
    """Progress of a run.

    Attributes:
        done: images that were processed.
        total: images to process.
        failures: reasons so far, and their counts.
        seconds: time since the work began.
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
        """Remaining time at that rate; None before the first image."""
        return (self.total - self.done) / self.rate if self.done and self.seconds > 0 else None


def damage_text(parts: int) -> str:
    """What damaged parts mean, for a note."""
    return f"{parts} parts were damaged: images of the source in them are scored again, other rows are lost"


@dataclass(frozen=True)
class ScoreSummary:
    """What a run did, and what the folder holds.

    Attributes:
        images: images in the source; each has exactly one row.
        scored: images with a new answer.
        unchanged: images whose old row is still valid by their hash.
        kept: images whose old row is still valid by size and times.
        gone: rows of images that are no longer in the source; they are kept.
        failures: reasons for images without scores, old and new, and their counts.
        parts: parts that were completed and written.
        seconds: duration of the run.
        fusion_trained: whether the bundle's fusion head is trained.
        passed_over: counts of other entries of the source's folder by kind; see `lrclr.images.find_images`.
        exact: whether files were read in full.
        damaged: parts that were damaged, whose rows were computed again.
        unreadable: images that could not be read now, such as without permission, and whose earlier row is kept.
        replaced: rows that were replaced because the image of their name has another content: the file was changed, or
            the folder held the scores of another source with equal names.
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
    damaged: int = 0
    unreadable: int = 0
    replaced: int = 0

    @property
    def failed(self) -> int:
        """Images without scores."""
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """The summary in JSON's types."""
        # asdict makes a Counter of a Counter's items.
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            **content,
            "failures": dict(self.failures),
            "passed_over": dict(self.passed_over),
            "failed": self.failed,
        }
