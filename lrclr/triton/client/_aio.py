"""Asynchronous client."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

from lrclr.errors import LrclrError, UsageError
from lrclr.inference._decoding import require_list
from lrclr.triton.client import _wire as wire
from lrclr.triton.client._base import BaseClient
from lrclr.triton.client._options import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.inference import Prediction
    from lrclr.text import FindingSet
    from lrclr.triton.client._options import ClientOptions
    from lrclr.triton.client._wire import ImageSource, Reply

_END: Any = object()


class AsyncClient(BaseClient):
    """Asynchronous client for asyncio. Use it in one event loop, with ``async with``.

    Args:
        address: as for `Client`.
        options: as for `Client`.

    Raises:
        MissingExtraError: tritonclient is not installed.
        UsageError: the address has another form, or `options` enable shared memory, which only `Client` has.
    """

    _HOW_TO_OPEN = "Use it in `async with`."

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        super().__init__(address, options)
        if self.options.shared_memory:
            raise UsageError("AsyncClient has no shared memory", fix="Use Client, or leave shared_memory out.")

    async def __aenter__(self) -> Self:
        # Not in `__init__`: the channel belongs to the running event loop.
        from tritonclient.grpc.aio import InferenceServerClient

        self._triton = InferenceServerClient(**self._connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        triton, self._triton = self._opened(), None
        await triton.close()

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

    async def ask(  # noqa: PLR0913 - one parameter an input of the model
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        heatmap: bool = False,
        exact: bool = False,
        embedding: bool = False,
        sr: bool = False,
    ) -> Reply:
        """As `Client.ask`."""
        require_list(images)
        if len(images) == 0:
            return wire.Reply([], [], "")
        deadline = Deadline(self.options)
        files = [await asyncio.to_thread(wire.encoded, image) for image in images]
        tensors = wire.inputs(files, findings, alpha, frame, heatmap=heatmap, exact=exact, embedding=embedding, sr=sr)
        result = await self._infer(wire.as_infer_inputs(tensors), deadline)
        known = self._known(result) or await self._describe(deadline)
        return wire.reply(result, len(files), fusion_trained=bool(known["fusion_trained"]))

    async def embed_images(
        self, images: Sequence[ImageSource], *, frame: int | None = None, exact: bool = False
    ) -> NDArray[np.float32]:
        """As `Client.embed_images`."""
        require_list(images)
        if len(images) == 0:
            raise UsageError("embed_images got an empty list of images")
        return wire.embedding_of(await self.ask(images, frame=frame, exact=exact, embedding=True))

    async def describe(self, *, again: bool = False) -> dict[str, Any]:
        """As `Client.describe`."""
        known = None if again else self._described
        return known or await self._describe(Deadline(self.options))

    async def stream(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 8,
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> AsyncIterator[Prediction | LrclrError]:
        """Predictions for many images, one request for each image, in order, as they arrive.

        Args:
            images: images, read one by one, at most `concurrency` ahead of the results.
            concurrency: number of requests in flight.
            findings: as for `predict`.
            alpha: weight of the local score.

        Yields:
            The prediction of each image, or its error.

        Raises:
            ServerUnavailableError, ServerError: an error that does not depend on the image ends the stream.
        """
        require_list(images)
        if concurrency < 1:
            raise UsageError("the concurrency of a stream must be at least 1")
        running: list[asyncio.Task[Prediction | LrclrError]] = []
        remaining = iter(images)
        try:
            while True:
                while len(running) < concurrency:
                    image = next(remaining, _END)
                    if image is _END:
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

    async def _describe(self, deadline: Deadline) -> dict[str, Any]:
        return self._remember(await self._infer(wire.describe_inputs(), deadline))

    async def _infer(self, inputs: list[Any], deadline: Deadline) -> Any:
        """Send a request, and repeat it while `_pause` allows it."""
        from tritonclient.utils import InferenceServerException

        for attempt in count(1):
            try:
                return await self._opened().infer(self.options.model, inputs, **self.options.call(deadline.left()))
            except InferenceServerException as error:
                await asyncio.sleep(self._pause(error, attempt, deadline))
        raise AssertionError("the loop returns or raises")
