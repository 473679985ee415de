"""Decoding in tasks and encoding in a pool of actors, with Ray Data."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import pickle  # only of data from this run's own workers
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from lrclr.errors import EngineError, LrclrError, UsageError, first_line

# Ray sends usage statistics to its maker unless this is set before the import.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data
import ray.util
from ray._private import ray_constants
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from lrclr.archive._decode import Decoder
    from lrclr.archive._encode import Encoder
    from lrclr.archive._options import RayOptions
    from lrclr.archive._outcome import Chunk, Outcome

_COLUMN: Final = "chunks"
_IMAGES_A_TASK: Final = 16
_TASKS_A_BLOCK: Final = 4
_BLOCKS_AN_ACTOR: Final = 8
# Images are passed on in the model's input size, some ten kilobytes each.
_STORE_BYTES: Final = 512 << 20
_CONNECT_SECONDS: Final = 10


def run_ray(
    chunks: Iterable[Chunk], decoder: Decoder, encoder: Encoder, options: RayOptions
) -> Generator[tuple[Chunk, list[Outcome]]]:
    """Outcomes of every chunk, as they come.

    Ray repeats the tasks of a lost worker or machine elsewhere.

    Args:
        chunks: the work.
        decoder: from tasks to images; runs in Ray tasks.
        encoder: from images to outcomes; each actor opens its bundle once.
        options: address, and resources of actors and tasks.

    Raises:
        UsageError: the cluster is too small for the options.
        EngineError: Ray or the engine of an actor failed.
        LrclrError: see the decoder and the encoder.
    """
    with _cluster(options.address):
        actors = _actors(options)
        tasks = [{_COLUMN: pickle.dumps(group)} for group in _grouped(chunks, _IMAGES_A_TASK)]
        blocks = max(1, min(len(tasks), max(actors * _BLOCKS_AN_ACTOR, len(tasks) // _TASKS_A_BLOCK)))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        # The two steps need different resources: otherwise Ray Data would fuse them.
        outcomes = (
            ray.data.from_items(tasks, override_num_blocks=blocks)
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
                    yield from pickle.loads(value.as_buffer())  # noqa: S301
        except RayError as error:
            raise _explained(error) from error


def _grouped(chunks: Iterable[Chunk], images: int) -> Iterator[list[Chunk]]:
    """Chunks in groups of at least so many images."""
    group: list[Chunk] = []
    for chunk in chunks:
        group.append(chunk)
        if sum(len(each.tasks) for each in group) >= images:
            yield group
            group = []
    if group:
        yield group


def _decode(row: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
    chunks: list[Chunk] = pickle.loads(row[_COLUMN])  # noqa: S301
    return {_COLUMN: pickle.dumps([(chunk, [decoder(task) for task in chunk.tasks]) for chunk in chunks])}


class _Encode:
    """An actor with one opened engine."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # Ray passes on only the text of an error in a constructor. The first call raises this one again.
        with contextlib.suppress(LrclrError):
            _ = encoder.classifier

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        pairs = pickle.loads(row[_COLUMN])  # noqa: S301
        return {_COLUMN: pickle.dumps([(chunk, self._encoder(decoded)) for chunk, decoded in pairs])}


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Join a cluster, or start one that only this machine can reach, and leave it at the end."""
    if ray.is_initialized():
        # The application has joined a cluster in this process: use that one.
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray Data logs the traceback of each error that it raises.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
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
            _check_address(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"connect to the Ray cluster at {address}" if address else "start a Ray cluster on this machine"
        raise EngineError(f"cannot {what}", why=first_line(error)) from error
    try:
        if address is None:
            _check_loopback()
        if threading.current_thread() is threading.main_thread():
            # Ray has set its own handler, which ends the process with another exit code.
            signal.signal(signal.SIGTERM, at_sigterm)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Keep a cluster that is started here on the loopback interface: a client that reaches Ray's ports can run code.

    Ray replaces a loopback address by one that other machines reach, and then listens on every interface, unless it
    runs on a system without support for clusters of several machines.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_loopback() -> None:
    address = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(address).is_loopback:
        raise EngineError(
            f"the Ray cluster on this machine listens on {address}",
            why="other machines can reach it, and a client that reaches a Ray cluster can run code on it",
            fix="Install the version of Ray that this release was tested with, or join a cluster with --address.",
        )


def _check_address(address: str) -> None:
    """Raise OSError if nothing listens at an address: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _actors(options: RayOptions) -> int:
    """Number of actors. The cluster has room for all of them and a decoding task."""
    there = ray.cluster_resources()
    room = (there.get("CPU", 0.0) - options.decode_cpus) / options.actor_cpus if options.actor_cpus else float("inf")
    if options.actor_gpus:
        room = min(room, there.get("GPU", 0.0) / options.actor_gpus)
    if room == float("inf"):
        room = there.get("CPU", 1.0)
    # Sums of fractions are inexact.
    most = int(room + 1e-6)
    if most < (options.actors or 1):
        raise UsageError(
            f"the cluster has no room for {options.actors or 1} actors",
            why=f"it has {there.get('CPU', 0.0):g} cores and {there.get('GPU', 0.0):g} GPUs, of which an actor takes "
            f"{options.actor_cpus:g} and {options.actor_gpus:g}, and a decoding task {options.decode_cpus:g} cores",
            fix="Use fewer --actors, --actor-cpus or --actor-gpus.",
        )
    return options.actors or most


def _explained(error: RayError) -> LrclrError:
    """The error of lrclr that caused Ray's, if there is one."""
    seen: list[BaseException] = []
    below: BaseException | None = error
    while below is not None and below not in seen:
        # Ray raises a class of its own that also derives from the class of the cause. Its text is a traceback.
        if isinstance(below, LrclrError) and not isinstance(below, RayError):
            return below
        seen.append(below)
        below = getattr(below, "cause", None) or below.__cause__
    return EngineError("Ray failed", why=first_line(error))
