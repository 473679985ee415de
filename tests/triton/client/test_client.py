"""How a client handles a server's errors, how often it repeats a request, and how long it waits.

The server is scripted.
"""

from __future__ import annotations

import asyncio
import pickle
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import pytest

from lrclr import budget, errors
from lrclr.errors import ImageError, ImageLimitError, LrclrError, MissingExtraError, ServerUnavailableError, UsageError
from lrclr.triton import protocol
from lrclr.triton.client import AsyncClient, Client, ClientOptions, predict_files

# Private: the clock of a call.
from lrclr.triton.client._options import Deadline
from tests import bundles
from tests.triton.scripted import scripted_server

if TYPE_CHECKING:
    from tests.triton.scripted import ScriptedServer

KINDS = [getattr(errors, name) for name in errors.__all__]
FULL = "[request id: <id_unknown>] Exceeds maximum queue size"
EXPIRED = "Request timeout expired"


def example_of(kind: type[LrclrError]) -> LrclrError:
    """An error of this class, as lrclr raises it."""
    if kind is MissingExtraError:
        return MissingExtraError("pylibjpeg-openjpeg", "dicom", "decoding JPEG 2000 pixel data")
    return kind("image 2 of 3", why="a reason", fix="Do something.")


def status(error: LrclrError) -> grpc.StatusCode:
    """The gRPC status of an error, as defined in `lrclr.triton.protocol`."""
    if isinstance(error, MissingExtraError):
        return grpc.StatusCode.UNIMPLEMENTED
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, UsageError | ImageError) else grpc.StatusCode.INTERNAL


def test_the_list_has_every_class_of_errors() -> None:
    def below(kind: type[LrclrError]) -> set[type[LrclrError]]:
        return {kind}.union(
            *(below(subclass) for subclass in kind.__subclasses__() if subclass.__module__ == errors.__name__)
        )

    assert set(KINDS) == below(LrclrError)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_server_is_raised_by_the_client(kind: type[LrclrError]) -> None:
    sent = example_of(kind)

    def refuse(_server: ScriptedServer, context: Any) -> None:
        context.abort(status(sent), f"{kind.__name__}: {sent}")

    async def call_async(address: str) -> None:
        async with AsyncClient(address, ClientOptions(retries=0)) as client:
            await client.predict([b"image"])

    with scripted_server(refuse) as server, Client(server.address, ClientOptions(retries=0)) as client:
        for call in (lambda: client.predict([b"image"]), lambda: asyncio.run(call_async(server.address))):
            with pytest.raises(kind) as raised:
                call()
            assert type(raised.value) is kind
            assert str(raised.value) == str(sent)
            assert raised.value.exit_code == sent.exit_code


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_can_be_pickled(kind: type[LrclrError]) -> None:
    sent = example_of(kind)
    if isinstance(sent, ServerUnavailableError):
        sent.retry_after = 2.0
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is kind
    assert (str(got), vars(got)) == (str(sent), vars(sent))


def test_an_image_that_the_server_cannot_decode_does_not_end_a_run(tmp_path: Path) -> None:
    files = [bundles.radiograph(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abcd")]
    undecodable, unreadable = files[1].read_bytes(), files[2].read_bytes()

    def refuse(server: ScriptedServer, context: Any) -> None:
        if not server.described[-1] and server.images[-1] == undecodable:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"MissingExtraError: {example_of(MissingExtraError)}")
        if not server.described[-1] and server.images[-1] == unreadable:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "ImageError: not an image")

    async def stream(address: str) -> list[Any]:
        async with AsyncClient(address) as client:
            return [answer async for answer in client.stream(files, concurrency=1)]

    with scripted_server(refuse) as server, Client(server.address) as client:
        results = list(predict_files(client, files, concurrency=1))
        streamed = asyncio.run(stream(server.address))
    assert [type(result.error) for result in results] == [type(None), MissingExtraError, ImageError, type(None)]
    assert ".[dicom]" in str(results[1].error)
    assert [isinstance(result, LrclrError) for result in streamed] == [False, True, True, False]


@pytest.mark.parametrize(
    "text", [FULL, EXPIRED, f"ServerUnavailableError: image_encoder failed: {FULL}. Repeat the request."]
)
def test_a_busy_server_gives_an_error_with_advice(text: str) -> None:
    def refuse(_server: ScriptedServer, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, text)

    with scripted_server(refuse) as server, Client(server.address, ClientOptions(retries=0)) as client:
        with pytest.raises(ServerUnavailableError, match=r"is busy: .*Repeat the request after 1 s") as raised:
            client.predict([b"image"])
        assert raised.value.retry_after == protocol.RETRY_SECONDS
        assert len(server.left) == 1


def test_a_request_is_repeated_until_a_busy_server_accepts_it() -> None:
    def refuse(server: ScriptedServer, context: Any) -> None:
        if len(server.left) <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, FULL)

    # More often than `retries`, since the server is reachable.
    with scripted_server(refuse) as server, Client(server.address, ClientOptions(retries=1, backoff=0.01)) as client:
        began = time.monotonic()
        assert len(client.predict([b"image"])) == 1
        assert time.monotonic() - began >= 2 * protocol.RETRY_SECONDS
        assert server.described == [False, False, False, True]


def test_an_unreachable_server_is_tried_as_often_as_retries_says() -> None:
    def refuse(_server: ScriptedServer, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "it is being loaded again")

    with scripted_server(refuse) as server, Client(server.address, ClientOptions(retries=2, backoff=0.001)) as client:
        with pytest.raises(ServerUnavailableError) as raised:
            client.predict([b"image"])
        assert raised.value.retry_after is None
        assert len(server.left) == 3


def test_inference_repetitions_and_description_share_one_deadline() -> None:
    slept = 0.05

    def answer_slowly(server: ScriptedServer, context: Any) -> None:
        time.sleep(slept)
        if len(server.left) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")

    async def call_async(address: str) -> None:
        async with AsyncClient(address, ClientOptions(timeout=30, backoff=0.001)) as client:
            await client.predict([b"image"])

    with (
        scripted_server(answer_slowly) as server,
        Client(server.address, ClientOptions(timeout=30, backoff=0.001)) as client,
    ):
        client.predict([b"image"])
        asyncio.run(call_async(server.address))
    assert server.described == [False, False, True, False, True]
    # gRPC rounds the sent deadline up to seconds. The time in the queue is sent in microseconds.
    first, repeated, described, first_async, described_async = (microseconds / 1e6 for microseconds in server.queued)
    assert repeated <= first - slept
    assert described <= repeated - slept
    assert described_async <= first_async - slept
    for left, queued in zip(server.left, server.queued, strict=True):
        # The server refuses a waiting request before the client gives up.
        assert left - queued / 1e6 > 0.5


def test_a_call_ends_at_its_deadline_without_a_useless_pause() -> None:
    def refuse(_server: ScriptedServer, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, FULL)

    with scripted_server(refuse) as server, Client(server.address, ClientOptions(timeout=0.5)) as client:
        with pytest.raises(ServerUnavailableError, match="is busy"):
            client.predict([b"image"])
        # A pause of one second would end after the deadline, so the client does not start it.
        assert len(server.left) == 1


def test_one_image_instead_of_a_list_is_refused() -> None:
    images: list[Any] = ["study.png", Path("study.png"), b"x", np.zeros((9, 9), np.uint8)]
    for image in images:
        with Client("127.0.0.1:9") as client:
            for call in (client.predict, client.ask, client.embed_images):
                with pytest.raises(UsageError, match="one image was given instead of a list"):
                    call(image)

        async def stream(given: Any = image) -> None:
            async with AsyncClient("127.0.0.1:9") as client:
                with pytest.raises(UsageError, match="one image was given instead of a list"):
                    await client.predict(given)
                with pytest.raises(UsageError, match="one image was given instead of a list"):
                    await anext(client.stream(given))

        asyncio.run(stream())


def test_a_file_that_is_too_large_for_a_server_does_not_end_a_run(tmp_path: Path) -> None:
    large, good = tmp_path / "large.png", tmp_path / "good.png"
    with large.open("wb") as file:
        file.truncate(budget.REQUEST_BYTES)
    good.write_bytes(b"image")
    with scripted_server() as server, Client(server.address) as client:
        refused, answered = predict_files(client, [large, good])

        async def stream() -> list[object]:
            async with AsyncClient(server.address) as asking:
                return [each async for each in asking.stream([large, good])]

        first, second = asyncio.run(stream())
    assert isinstance(refused.error, ImageLimitError)
    assert answered.prediction is not None
    assert isinstance(first, ImageLimitError)
    assert second == answered.prediction


def test_something_else_than_an_image_does_not_shift_answers() -> None:
    async def stream(images: list[Any]) -> list[object]:
        async with AsyncClient(server.address) as client:
            return [each async for each in client.stream(images)]

    with scripted_server() as server, pytest.raises(UsageError, match="an image cannot be NoneType"):
        asyncio.run(stream([b"image", None, b"image"]))


@pytest.mark.parametrize(
    ("image", "reason"), [("a\0b", "cannot be read"), (np.zeros((0, 0), np.uint8), "must be an array")]
)
def test_images_that_cannot_be_sent_give_an_error_of_lrclr(image: Any, reason: str) -> None:
    with Client("127.0.0.1:9") as client, pytest.raises(ImageError, match=reason):
        client.predict([image])


def test_bytes_like_objects_are_sent() -> None:
    with scripted_server() as server, Client(server.address) as client:
        client.ask([bytearray(b"one")])  # type: ignore[list-item]
        client.ask([memoryview(b"two")])  # type: ignore[list-item]
    assert server.images == [b"one", b"two"]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": 1e15},
        {"keep_alive": 1e9},
        {"backoff": float("nan")},
        {"tls_root": "nowhere.pem"},
        {"tls_name": "localhost"},
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ClientOptions(**options)


def test_names_instead_of_findings_are_refused() -> None:
    names: Any = ["Edema"]
    with (
        Client("127.0.0.1:9") as client,
        pytest.raises(UsageError, match=r"findings is not a FindingSet.*from_names"),
    ):
        client.predict([b"x"], findings=names)


def test_a_client_that_is_not_open_is_refused() -> None:
    with scripted_server() as server:
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

        async def after_its_end() -> None:
            async with AsyncClient(server.address) as ended:
                pass
            await ended.predict([b"image"])

        for waiting in (unopened.predict([b"image"]), unopened.describe(), after_its_end()):
            with pytest.raises(UsageError, match=r"not open.*async with"):
                asyncio.run(waiting)
    assert not server.left


def test_the_description_is_fetched_again_after_a_change_of_bundle() -> None:
    async def ask(address: str) -> None:
        async with AsyncClient(address) as client:
            await client.predict([b"image"])
            await client.predict([b"image"])
            server.bundle = "1" * 64
            await client.predict([b"image"])
            assert (await client.describe())["bundle"] == server.bundle

    with scripted_server() as server:
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
def test_pauses_are_limited_and_random(attempt: int) -> None:
    options = ClientOptions(timeout=1e6, retries=10_000)
    unreachable, busy = ServerUnavailableError("away"), ServerUnavailableError("busy")
    busy.retry_after = 3.0
    deadline = Deadline(options)
    growing = min(0.1 * 2.0 ** min(attempt - 1, 32), 8.0)
    for error, least in ((unreachable, 0.0), (busy, 3.0)):
        pauses = [deadline.pause(attempt, error) for _ in range(20)]
        assert all(pause is not None and least + growing / 2 <= pause <= least + growing for pause in pauses)
        assert len(set(pauses)) > 1
    assert deadline.pause(attempt, UsageError("wrong")) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_without_a_listener_is_reported(host: str) -> None:
    (port,) = bundles.free_ports(1)
    with (
        pytest.raises(ServerUnavailableError, match=rf"^nothing listens at {host}:{port}\. Start a server with `lrclr"),
        Client(f"{host}:{port}", ClientOptions(retries=0)) as client,
    ):
        client.describe()


def test_a_port_of_another_protocol_is_reported() -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with (
                pytest.raises(ServerUnavailableError, match=r"does not answer in gRPC\. Give the port for gRPC, 8001"),
                Client(f"127.0.0.1:{server.server_port}", ClientOptions(retries=0)) as client,
            ):
                client.describe()
        finally:
            server.shutdown()


def test_an_unknown_host_is_reported() -> None:
    with (
        pytest.raises(ServerUnavailableError, match=r"^the host of no-such-host\.invalid:8001 is unknown"),
        Client("no-such-host.invalid:8001", ClientOptions(retries=0)) as client,
    ):
        client.describe()
