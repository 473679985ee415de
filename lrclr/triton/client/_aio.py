"""The client for asyncio."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

from lrclr._addresses import Address
from lrclr.contract import MODEL
from lrclr.errors import LrclrError, UsageError
from lrclr.triton.client import _wire as wire
from lrclr.triton.client._options import ClientOptions, Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from lrclr.inference import Prediction
    from lrclr.text import FindingSet
    from lrclr.triton.client._wire import ImageSource, Reply

__all__ = ["AsyncClient"]


class AsyncClient:
    """As `Client`, for asyncio; use it within one event loop, with ``async with``.

    Args:
        address: as for `Client`.
        options: how to ask.

    Raises:
        MissingExtraError: tritonclient is not installed.
        UsageError: the address is something else, or shared memory was asked for, which only `Client` has.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        if self.options.shared_memory:
            raise UsageError("AsyncClient does not share memory", fix="Use Client, or leave shared_memory out.")
        wire.triton_grpc()
        self._connection = self.options.connection(Address.parse(address))
        self._triton: Any = None
        self._described: dict[str, Any] | None = None

    async def __aenter__(self) -> Self:
        # Made here: the channel belongs to the event loop that runs.
        from tritonclient.grpc.aio import InferenceServerClient

        self._triton = InferenceServerClient(**self._connection)
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
        deadline = Deadline(self.options)
        files = [await asyncio.to_thread(wire.encoded, image) for image in images]
        asked = wire.as_infer_inputs(wire.inputs(files, findings, alpha, frame, heatmap=heatmap, exact=exact))
        result = await self._infer(asked, deadline)
        bundle = result.as_numpy("bundle")
        known = await self._description(deadline)
        if bundle is not None and bundle.ravel()[0].decode() != known["bundle"]:
            known = await self._description(deadline, again=True)
        return wire.reply(result, len(files), fusion_trained=bool(known["fusion_trained"]))

    async def describe(self, *, again: bool = False) -> dict[str, Any]:
        """As `Client.describe`."""
        return await self._description(Deadline(self.options), again=again)

    async def _description(self, deadline: Deadline, *, again: bool = False) -> dict[str, Any]:
        if self._described is None or again:
            self._described = wire.description(await self._infer(wire.describe_inputs(), deadline))
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
        try:
            return (await self.predict([image], findings=findings, alpha=alpha))[0]
        except wire.OF_ONE_IMAGE as error:
            return error

    async def _infer(self, asked: list[Any], deadline: Deadline) -> Any:
        """Ask, and again while it may help."""
        from tritonclient.utils import InferenceServerException

        if self._triton is None:
            raise UsageError("the client is not open", fix="Use it within `async with`.")
        for attempt in count(1):
            try:
                return await self._triton.infer(MODEL, asked, **self.options.call(deadline.left()))
            except InferenceServerException as error:
                ours = wire.error_of(error, self.address, self.options.timeout)
                pause = deadline.pause(attempt, ours)
                if pause is None:
                    raise ours from error
                await asyncio.sleep(pause)
        raise AssertionError("the loop returns or raises")
