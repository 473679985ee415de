"""What a client makes of a server's errors, how often it asks, and how long: against a server that a test scripts."""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest

from lrclr import errors
from lrclr.errors import ImageError, LrclrError, MissingExtraError, ServerUnavailableError, UsageError
from lrclr.triton import protocol
from lrclr.triton.client import AsyncClient, Client, ClientOptions, predict_files

# Private: the clock of one call.
from lrclr.triton.client._options import Deadline
from tests import bundles
from tests.triton.scripted import scripted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.triton.scripted import Scripted

KINDS = [getattr(errors, name) for name in errors.__all__]
FULL = "[request id: <id_unknown>] Exceeds maximum queue size"
EXPIRED = "Request timeout expired"


def made(kind: type[LrclrError]) -> LrclrError:
    """An error as lrclr makes them."""
    if kind is MissingExtraError:
        return MissingExtraError("pylibjpeg-openjpeg", "dicom", "decoding JPEG 2000 pixel data")
    return kind("image 2 of 3", why="a reason", fix="Do something.")


def status(error: LrclrError) -> grpc.StatusCode:
    """As `lrclr.triton.protocol` says."""
    if isinstance(error, MissingExtraError):
        return grpc.StatusCode.UNIMPLEMENTED
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, UsageError | ImageError) else grpc.StatusCode.INTERNAL


def test_the_list_of_errors_is_the_tree() -> None:
    def below(kind: type[LrclrError]) -> set[type[LrclrError]]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__() if one.__module__ == errors.__name__))

    assert set(KINDS) == below(LrclrError)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_goes_through_the_wire(kind: type[LrclrError]) -> None:
    sent = made(kind)

    def refuse(_server: Scripted, context: Any) -> None:
        context.abort(status(sent), f"{kind.__name__}: {sent}")

    async def ask(address: str) -> None:
        async with AsyncClient(address, ClientOptions(retries=0)) as client:
            await client.predict([b"image"])

    with scripted(refuse) as server, Client(server.address, ClientOptions(retries=0)) as client:
        for call in (lambda: client.predict([b"image"]), lambda: asyncio.run(ask(server.address))):
            with pytest.raises(kind) as raised:
                call()
            assert type(raised.value) is kind
            assert str(raised.value) == str(sent)
            assert raised.value.exit_code == sent.exit_code


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_goes_from_process_to_process(kind: type[LrclrError]) -> None:
    sent = made(kind)
    if isinstance(sent, ServerUnavailableError):
        sent.retry_after = 2.0
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is kind
    assert (str(got), vars(got)) == (str(sent), vars(sent))


def test_an_image_that_the_server_cannot_decode_does_not_end_a_run(tmp_path: Path) -> None:
    files = [bundles.radiograph(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abcd")]
    undecodable, unreadable = files[1].read_bytes(), files[2].read_bytes()

    def refuse(server: Scripted, context: Any) -> None:
        if not server.described[-1] and server.images[-1] == undecodable:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"MissingExtraError: {made(MissingExtraError)}")
        if not server.described[-1] and server.images[-1] == unreadable:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "ImageError: not an image")

    async def stream(address: str) -> list[Any]:
        async with AsyncClient(address) as client:
            return [answer async for answer in client.stream(files, concurrency=1)]

    with scripted(refuse) as server, Client(server.address) as client:
        results = list(predict_files(client, files, concurrency=1))
        streamed = asyncio.run(stream(server.address))
    assert [type(one.error) for one in results] == [type(None), MissingExtraError, ImageError, type(None)]
    assert ".[dicom]" in str(results[1].error)
    assert [isinstance(one, LrclrError) for one in streamed] == [False, True, True, False]


@pytest.mark.parametrize(
    "text", [FULL, EXPIRED, f"ServerUnavailableError: image_encoder failed: {FULL}. Repeat the request."]
)
def test_a_busy_server_is_told_as_busy_with_a_hint(text: str) -> None:
    def refuse(_server: Scripted, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, text)

    with scripted(refuse) as server, Client(server.address, ClientOptions(retries=0)) as client:
        with pytest.raises(ServerUnavailableError, match=r"is busy: .*Repeat the request after 1 s") as raised:
            client.predict([b"image"])
        assert raised.value.retry_after == protocol.RETRY_SECONDS
        assert len(server.left) == 1


def test_a_busy_server_is_asked_again_until_it_takes_the_request() -> None:
    def refuse(server: Scripted, context: Any) -> None:
        if len(server.left) <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, FULL)

    # More often than `retries` says: the server is there.
    with scripted(refuse) as server, Client(server.address, ClientOptions(retries=1, backoff=0.01)) as client:
        began = time.monotonic()
        assert len(client.predict([b"image"])) == 1
        assert time.monotonic() - began >= 2 * protocol.RETRY_SECONDS
        assert server.described == [False, False, False, True]


def test_a_server_that_is_not_there_is_asked_as_often_as_retries_say() -> None:
    def refuse(_server: Scripted, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "it is being loaded again")

    with scripted(refuse) as server, Client(server.address, ClientOptions(retries=2, backoff=0.001)) as client:
        with pytest.raises(ServerUnavailableError) as raised:
            client.predict([b"image"])
        assert raised.value.retry_after is None
        assert len(server.left) == 3


def test_one_deadline_for_inference_repetitions_and_description() -> None:
    slept = 0.05

    def slowly(server: Scripted, context: Any) -> None:
        time.sleep(slept)
        if len(server.left) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")

    async def ask(address: str) -> None:
        async with AsyncClient(address, ClientOptions(timeout=30, backoff=0.001)) as client:
            await client.predict([b"image"])

    with scripted(slowly) as server, Client(server.address, ClientOptions(timeout=30, backoff=0.001)) as client:
        client.predict([b"image"])
        asyncio.run(ask(server.address))
    assert server.described == [False, False, True, False, True]
    # gRPC rounds the deadline that it sends up, to seconds; the time in the queue is sent in microseconds.
    first, again, described, first_there, described_there = (one / 1e6 for one in server.queued)
    assert again <= first - slept
    assert described <= again - slept
    assert described_there <= first_there - slept
    for left, queued in zip(server.left, server.queued, strict=True):
        # The server refuses a request that still waits before the client gives it up.
        assert left - queued / 1e6 > 0.5


def test_a_call_ends_when_its_time_is_up_and_not_when_a_repetitions_would_be() -> None:
    def refuse(_server: Scripted, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, FULL)

    with scripted(refuse) as server, Client(server.address, ClientOptions(timeout=0.5)) as client:
        with pytest.raises(ServerUnavailableError, match="is busy"):
            client.predict([b"image"])
        # A pause of a second would end after the deadline: no use to wait for it.
        assert len(server.left) == 1


def test_a_client_that_is_not_open_says_so() -> None:
    with scripted() as server:
        client, unopened = Client(server.address), AsyncClient(server.address)
        client.close()
        client.close()
        for call in (
            lambda: client.predict([b"image"]),
            client.describe,
            client.ready,
            lambda: client.infer_graph("", []),
        ):
            with pytest.raises(UsageError, match="not open"):
                call()
        for waiting in (unopened.predict([b"image"]), unopened.describe()):
            with pytest.raises(UsageError, match=r"not open.*async with"):
                asyncio.run(waiting)
    assert not server.left


def test_the_description_is_fetched_again_for_an_answer_of_another_bundle() -> None:
    async def ask(address: str) -> None:
        async with AsyncClient(address) as client:
            await client.predict([b"image"])
            await client.predict([b"image"])
            server.bundle = "1" * 64
            await client.predict([b"image"])
            assert (await client.describe())["bundle"] == server.bundle

    with scripted() as server:
        with Client(server.address) as client:
            client.predict([b"image"])
            client.predict([b"image"])
            server.bundle = "2" * 64
            client.predict([b"image"])
            assert client.describe()["bundle"] == server.bundle
        assert server.described == [False, True, False, False, True]
        server.described.clear()
        asyncio.run(ask(server.address))
    assert server.described == [False, True, False, False, True]


@pytest.mark.parametrize("attempt", [1, 5, 40, 4000])
def test_pauses_are_bounded_and_spread(attempt: int) -> None:
    options = ClientOptions(timeout=1e6, retries=10_000)
    unreachable, busy = ServerUnavailableError("away"), ServerUnavailableError("busy")
    busy.retry_after = 3.0
    deadline = Deadline(options)
    growing = min(0.1 * 2.0 ** min(attempt - 1, 32), 8.0)
    for error, least in ((unreachable, 0.0), (busy, 3.0)):
        pauses = [deadline.pause(attempt, error) for _ in range(20)]
        assert all(one is not None and least + growing / 2 <= one <= least + growing for one in pauses)
        assert len(set(pauses)) > 1
    assert deadline.pause(attempt, UsageError("wrong")) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_at_which_nothing_listens_is_told_as_that(host: str) -> None:
    (port,) = bundles.free_ports(1)
    with (
        pytest.raises(ServerUnavailableError, match=rf"^nothing listens at {host}:{port}\. Start a server with `lrclr"),
        Client(f"{host}:{port}", ClientOptions(retries=0)) as client,
    ):
        client.describe()


def test_a_host_that_is_unknown_is_told_as_that() -> None:
    with (
        pytest.raises(ServerUnavailableError, match=r"^the host of no-such-host\.invalid:8001 is unknown"),
        Client("no-such-host.invalid:8001", ClientOptions(retries=0)) as client,
    ):
        client.describe()
