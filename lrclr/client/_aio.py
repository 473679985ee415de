"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from lrclr.client import _wire as wire
from lrclr.client._options import ClientOptions
from lrclr.contract import MODEL
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from lrclr.client._wire import ImageSource, Reply
    from lrclr.findings import FindingSet
    from lrclr.results import Prediction

__all__ = ["AsyncClient"]


class AsyncClient:
    """As `Client`, for asyncio; use it within one event loop, with ``async with``.

    Args:
        address: ``host:port`` of the server's gRPC.
        options: how to ask.

    Raises:
        MissingExtraError: tritonclient is not installed.
        UsageError: shared memory, which only `Client` has.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        if self.options.shared_memory:
            raise UsageError("AsyncClient does not share memory", fix="Use Client, or leave shared_memory out.")
        wire.triton_grpc()
        self._triton: Any = None
        self._described: dict[str, Any] | None = None

    async def __aenter__(self) -> Self:
        # Made here: the channel belongs to the event loop that runs.
        from tritonclient.grpc.aio import InferenceServerClient

        self._triton = InferenceServerClient(self.address, **self.options.connection())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._triton.close()

    async def predict(
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        exact: bool = False,
    ) -> list[Prediction]:
        """As `Client.predict`."""
        return (await self.ask(images, findings=findings, alpha=alpha, frame=frame, exact=exact)).predictions

    async def ask(
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        heatmap: bool = False,
        exact: bool = False,
    ) -> Reply:
        """As `Client.ask`."""
        if not images:
            return wire.Reply([], [], "")
        files = [await asyncio.to_thread(wire.encoded, image) for image in images]
        asked = wire.as_infer_inputs(wire.inputs(files, findings, alpha, frame, heatmap=heatmap, exact=exact))
        result = await self._infer(asked)
        bundle = result.as_numpy("bundle")
        known = await self.describe()
        if bundle is not None and bundle.ravel()[0].decode() != known["bundle"]:
            known = await self.describe(again=True)
        return wire.reply(result, len(files), fusion_trained=bool(known["fusion_trained"]))

    async def describe(self, *, again: bool = False) -> dict[str, Any]:
        """As `Client.describe`."""
        if self._described is None or again:
            self._described = wire.description(await self._infer(wire.describe_inputs()))
        return self._described

    async def stream(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 8,
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> AsyncIterator[Prediction | LrclrError]:
        """Answers for many images, each in a request of its own, in order, as they come.

        Args:
            images: taken one by one, never more than `concurrency` ahead of what was handed out.
            concurrency: requests at once.
            findings: what to ask for.
            alpha: weight of the local score.

        Yields:
            For each image its prediction, or what was wrong with it.

        Raises:
            ServerUnavailableError, ServerError: what is no image's fault ends the stream.
        """
        if concurrency < 1:
            raise UsageError("a stream needs at least one request at once")
        running: list[asyncio.Task[Prediction | LrclrError]] = []
        remaining = iter(images)
        try:
            while True:
                while len(running) < concurrency:
                    image = next(remaining, None)
                    if image is None:
                        break
                    running.append(asyncio.create_task(self._one(image, findings, alpha)))
                if not running:
                    return
                yield await running.pop(0)
        finally:
            for task in running:
                task.cancel()

    async def _one(
        self, image: ImageSource, findings: FindingSet | None, alpha: float | None
    ) -> Prediction | LrclrError:
        from lrclr.errors import ImageError

        try:
            return (await self.predict([image], findings=findings, alpha=alpha))[0]
        except ImageError as error:
            return error

    async def _infer(self, asked: list[Any]) -> Any:
        return await self._repeated(lambda left: self._triton.infer(MODEL, asked, **self.options.call(left)))

    async def _repeated(self, call: Callable[[float], Awaitable[Any]]) -> Any:
        from tritonclient.utils import InferenceServerException

        options = self.options
        deadline = time.monotonic() + options.timeout
        for attempt in range(1, options.retries + 2):
            try:
                return await call(max(0.001, deadline - time.monotonic()))
            except InferenceServerException as error:
                ours: LrclrError = wire.error_of(error, self.address, options.timeout)
                pause = options.pause(attempt)
                over = attempt > options.retries or time.monotonic() + pause >= deadline
                if over or not wire.passing(ours):
                    raise ours from error
                await asyncio.sleep(pause)
        raise AssertionError("the loop returns or raises")
