"""How Triton serves a bundle: settings with defaults, and what `lrclr tune` found and measured for an engine."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from msgspec import Meta, structs

from lrclr._records import Record

_Instances = Annotated[int, Meta(ge=1, le=64)]
_Threads = Annotated[int, Meta(ge=1, le=1024)]


class ServingSettings(Record, frozen=True):
    """Settings of Triton that do not change answers. The defaults are those of a new bundle.

    Attributes:
        processes: processes of the model `lrclr`. Each decodes images and waits for the graphs, and the image encoder
            batches their requests. Measured in benchmarks/results/serving; each process needs 55 MiB.
        encoder_instances: instances of the image encoder, each with its own copy of the weights. One uses the whole
            device, and a batch answers all waiting requests.
        encoder_threads: threads of each, on the CPU; None for the engine's own choice.
        fusion_instances: instances of the fusion head.
        fusion_threads: threads of each, on the CPU; None for the engine's own choice.
        queue_delay_us: microseconds that an image may wait for others to share a run of the image encoder. A delay
            adds to the latency at low load. At high load requests queue anyway.
        preferred_batches: numbers of images that do not wait any longer.
    """

    processes: _Instances = 8
    encoder_instances: _Instances = 1
    encoder_threads: _Threads | None = None
    fusion_instances: _Instances = 1
    fusion_threads: _Threads | None = None
    queue_delay_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    preferred_batches: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=8)] = ()

    def to_dict(self) -> dict[str, Any]:
        """The settings for the manifest."""
        return {**structs.asdict(self), "preferred_batches": list(self.preferred_batches)}

    def of_graph(self, graph: str) -> tuple[int, int | None]:
        """Number of instances of a graph, and threads of each."""
        if graph == "image_encoder":
            return self.encoder_instances, self.encoder_threads
        if graph == "fusion_head":
            return self.fusion_instances, self.fusion_threads
        return 1, None


class TuningEntry(TypedDict):
    """What `lrclr tune` found for one engine.

    ``engine`` is the engine that Triton uses, ``settings`` is `ServingSettings.to_dict`, and ``measured`` holds the
    limit, the rates that were reached, and the machine.
    """

    engine: str
    settings: dict[str, Any]
    measured: dict[str, Any]
