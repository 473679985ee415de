"""Measures configurations on a real server: the one that `lrclr serve` starts."""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

from lrclr._files import link_tree
from lrclr.bench import LOST, arrivals, closed_window, open_window
from lrclr.errors import ServerError
from lrclr.images import read_for_model
from lrclr.inference import ModelSpec
from lrclr.preprocessing import preprocess
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer
from lrclr.tune._windows import Estimate, Window, closed_estimate, open_estimate
from lrclr_export.repository.records import write_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from lrclr.bench import Files
    from lrclr.bundle import Bundle
    from lrclr.preprocessing import PreprocessSpec
    from lrclr.tune._options import TuneOptions
    from lrclr.tune._space import Candidate
    from lrclr.tune._windows import Plan

# Most requests at once from open loop. More than a server accepts, so that a full queue refuses some.
_MOST_AT_ONCE: Final = 96
_WARM_UP: Final = 1.0
# Share of the throughput of callers that wait, at which the search of the default begins.
_FIRST_SHARE: Final = 0.7
# Seconds until a caller whose request was refused sends the next one.
_PAUSE: Final = 0.05


class ServerBench:
    """Starts a server for each configuration and sends requests to it.

    Args:
        bundle: the bundle.
        folder: an empty folder for a copy of it, whose configuration is written for each server.
        files: the images to send.
        options: the limit, the callers and the server.
        on_window: called before each window, with its place among the windows of the configuration.
    """

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        files: Files,
        options: TuneOptions,
        on_window: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._manifest = bundle.manifest
        self._folder = folder
        self._files = files
        self._options = options
        self._on_window = on_window
        self._seed = options.seed
        link_tree(bundle.path, folder)

    def measure(self, candidate: Candidate, plan: Plan, seconds: float, start: float | None) -> Estimate:
        """Measure a configuration. If its server does not start, the estimate says why.

        Args:
            candidate: the configuration.
            plan: number of windows.
            seconds: length of a window.
            start: requests a second to begin with, in open loop; None to find a rate first.
        """
        limit, callers = self._options.p99_ms, self._options.callers
        try:
            with self._loaded(candidate) as load:
                if callers is not None:
                    return closed_estimate(lambda: self._closed(load, callers, seconds), plan, limit)
                if start is None:
                    first = self._closed(load, candidate.settings.processes, seconds)
                    if not first.latency_ms:
                        return Estimate.failed("no request was answered")
                    start = _FIRST_SHARE * len(first.latency_ms) / first.seconds
                return open_estimate(lambda rate: self._open(load, rate, seconds), start, plan, limit)
        except ServerError as error:
            return Estimate.failed(str(error))

    @contextmanager
    def _loaded(self, candidate: Candidate) -> Iterator[_Load]:
        """A server with this configuration, of whose processes each has answered."""
        self._on_window("start of the server")
        write_records(self._folder, self._manifest.tuned(candidate.settings))
        # Without waiting for requests in flight at the end: there are none, or the search was interrupted.
        serving = ServeOptions(server=self._options.server, grpc_port=0, http=False, metrics=False, exit_timeout=0)
        with (
            TritonServer(self._folder, serving) as server,
            Client(server.grpc, ClientOptions(retries=0, timeout=30.0, model=server.model)) as client,
        ):
            spec = ModelSpec.of_server(client.describe()).preprocess
            load = _Load(client, self._files, spec if candidate.decoding == "client" else None)
            self._on_window("warm-up")
            # As many callers as processes, so that each process answers and keeps the features of the prompts.
            closed_window(load.send, candidate.settings.processes, _WARM_UP, least=1)
            yield load

    def _closed(self, load: _Load, callers: int, seconds: float) -> Window:
        self._on_window(f"{callers} callers")
        before, used = load.lost, time.process_time()
        elapsed, latencies = closed_window(load.send, callers, seconds, least=1)
        used = (time.process_time() - used) / elapsed
        return Window(None, elapsed, _milliseconds(latencies), load.lost - before, used)

    def _open(self, load: _Load, rate: float, seconds: float) -> Window:
        self._on_window(f"{rate:.3g} requests a second")
        self._seed += 1
        used = time.process_time()
        made = open_window(load.send, _MOST_AT_ONCE, arrivals(rate, seconds, seed=self._seed), seconds)
        used = (time.process_time() - used) / made.seconds
        return Window(rate, float(made.seconds), _milliseconds(made.latency), made.due - len(made.latency), used)


class _Load:
    """Sends images to a server, one a request.

    Args:
        client: connected to the server.
        files: the images.
        spec: preprocessing, if the client decodes files; None to send files.

    Attributes:
        lost: requests that were refused or failed.
    """

    def __init__(self, client: Client, files: Files, spec: PreprocessSpec | None) -> None:
        self._client, self._files, self._spec = client, files, spec
        self._lock = Lock()
        self.lost = 0

    def send(self, number: int) -> object:
        """Send the image with a number and wait for the answer; `LOST` if the server refused or failed."""
        content = self._files.contents[number % len(self._files.contents)]
        try:
            if self._spec is None:
                return self._client.predict([content], exact=self._files.exact)
            image = read_for_model(content, self._spec, exact=self._files.exact)
            return self._client.predict_pixels(preprocess(image, self._spec)[None])
        except ServerError:
            with self._lock:
                self.lost += 1
            time.sleep(_PAUSE)
            return LOST


def _milliseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(each) * 1e3, 3) for each in seconds)
