"""Decoding in tasks and encoding in a pool of actors, by Ray Data; neither runs far ahead of the other."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import pickle  # what is unpickled came from this run's own workers
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from lrclr.errors import EngineError, LrclrError, UsageError, first_line

# Ray tells its maker about its use unless told not to before it is imported. Nothing goes out of a hospital unasked.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data
import ray.util
from ray._private import ray_constants
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from lrclr.archive._decode import Decoder
    from lrclr.archive._encode import Encoder
    from lrclr.archive._options import RayOptions
    from lrclr.archive._outcome import Chunk, Outcome

__all__ = ["run_ray"]

_COLUMN: Final = "chunk"
_CHUNKS_A_BLOCK: Final = 4
_BLOCKS_AN_ACTOR: Final = 8
# Pictures are handed over in the model's size: some ten kilobytes each.
_STORE_BYTES: Final = 512 << 20
_KNOCK_SECONDS: Final = 10


def run_ray(
    chunks: Sequence[Chunk], decoder: Decoder, encoder: Encoder, options: RayOptions
) -> Generator[tuple[Chunk, list[Outcome]]]:
    """Outcomes of every chunk, as they come.

    A worker or a machine that is lost takes nothing with it: Ray does its tasks again elsewhere.

    Args:
        chunks: what to work on.
        decoder: from tasks to pictures; runs in Ray tasks.
        encoder: the second; each actor opens its bundle once.
        options: where, and with how many of what.

    Raises:
        UsageError: the cluster is too small for what was asked.
        EngineError: Ray failed, or an actor's engine.
        LrclrError: as the decoder and the encoder.
    """
    with _cluster(options.address):
        actors = _actors(options)
        blocks = max(1, min(len(chunks), max(actors * _BLOCKS_AN_ACTOR, len(chunks) // _CHUNKS_A_BLOCK)))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        # The two ask for different resources, or Ray Data would make one of them.
        outcomes = (
            ray.data.from_items([{_COLUMN: pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=blocks)
            .map(_decode, fn_args=(decoder,), num_cpus=options.decode_cpus)
            .map(
                _Encode,
                fn_constructor_args=(encoder,),
                compute=ActorPoolStrategy(size=actors),
                num_cpus=options.actor_cpus,
                num_gpus=options.actor_gpus or None,
            )
        )
        try:
            for batch in outcomes.iter_batches(batch_size=None, batch_format="pyarrow"):
                for value in batch[_COLUMN]:
                    yield pickle.loads(value.as_buffer())  # noqa: S301
        except RayError as error:
            raise _explained(error) from error


def _decode(row: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
    chunk: Chunk = pickle.loads(row[_COLUMN])  # noqa: S301
    return {_COLUMN: pickle.dumps((chunk, [decoder(task) for task in chunk.tasks]))}


class _Encode:
    """An actor: one engine, kept."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        _ = encoder.classifier

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk, decoded = pickle.loads(row[_COLUMN])  # noqa: S301
        return {_COLUMN: pickle.dumps((chunk, self._encoder(decoded)))}


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Join a cluster, or start one that nobody outside this machine reaches, and leave it at the end."""
    if ray.is_initialized():
        # Whoever joined a cluster in this process means that one.
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            with _on_loopback():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        raise EngineError(f"{where} cannot be had", why=first_line(error)) from error
    try:
        if address is None:
            _refuse_open_doors()
        if threading.current_thread() is threading.main_thread():
            # Ray put its own there, which ends the process with another exit code.
            signal.signal(signal.SIGTERM, at_sigterm)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Keep a cluster that is started here on the loopback interface.

    Whoever reaches Ray's ports runs code. Ray turns the loopback's address into one that other machines reach, and
    then listens on every interface, unless it takes this for a system where it has no clusters of many machines.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _refuse_open_doors() -> None:
    at = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(at).is_loopback:
        raise EngineError(
            f"the Ray cluster on this machine listens on {at}",
            why="other machines would reach it, and whoever reaches a Ray cluster runs code on it",
            fix="Install the version of Ray that this release was tested with, or join a cluster with --address.",
        )


def _knock(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there.

    Raises:
        OSError: nobody is.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _actors(options: RayOptions) -> int:
    """How many, of which the cluster has room for all while something decodes."""
    there = ray.cluster_resources()
    room = (there.get("CPU", 0.0) - options.decode_cpus) / options.actor_cpus if options.actor_cpus else float("inf")
    if options.actor_gpus:
        room = min(room, there.get("GPU", 0.0) / options.actor_gpus)
    if room == float("inf"):
        room = there.get("CPU", 1.0)
    # Sums of fractions fall short of what was meant by a hair.
    most = int(room + 1e-6)
    if most < (options.actors or 1):
        raise UsageError(
            f"the cluster has no room for {options.actors or 1} actors",
            why=f"it has {there.get('CPU', 0.0):g} cores and {there.get('GPU', 0.0):g} GPUs, of which an actor takes "
            f"{options.actor_cpus:g} and {options.actor_gpus:g}, and a decoding task {options.decode_cpus:g} cores",
            fix="Ask for fewer, or for less for each.",
        )
    return options.actors or most


def _explained(error: RayError) -> LrclrError:
    """Our own error, if one lies beneath Ray's."""
    seen: list[BaseException] = []
    below: BaseException | None = error
    while below is not None and below not in seen:
        if isinstance(below, LrclrError):
            return below
        seen.append(below)
        below = getattr(below, "cause", None) or below.__cause__
    return EngineError("Ray failed", why=first_line(error), fix="What was finished is kept; run again to go on.")
