"""Targets: a bundle in an engine, a checkpoint in torch, a server with or without shared memory."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from lrclr._addresses import ip_address
from lrclr.auto import is_bundle, open_checkpoint, open_model
from lrclr.bench._flops import Network
from lrclr.bench._result import TargetInfo
from lrclr.contract import MODEL
from lrclr.errors import UsageError
from lrclr.inference import ModelSpec, predict_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.bundle import Bundle
    from lrclr.checkpoints import ReadOptions
    from lrclr.engines import Engine
    from lrclr.inference import Prediction, ZeroShotClassifier
    from lrclr.text import FindingSet
    from lrclr.triton.client import Client

# An address or a URL. `Client` checks it.
_ADDRESS = re.compile(r"^(\w+://.*|\[.*\].*|[^/\\\s:]+:\d+)$")


@dataclass(frozen=True)
class OpenOptions:
    """Options for opening targets.

    Attributes:
        engines: engines of each bundle, one target each; by default the bundle's own.
        provider: ``"cpu"`` or ``"cuda"``, for ONNX Runtime and torch.
        threads: threads of one operator; None for the engine's default.
        shared_memory: whether a server is also measured with shared memory.
        reading: options of `load_checkpoint`.
        model_name: name of the servers' model.
        tls_root: PEM file that verifies the servers, if their ports are encrypted.
    """

    engines: tuple[str, ...] = ()
    provider: str = "cpu"
    threads: int | None = None
    shared_memory: bool = False
    reading: ReadOptions | None = None
    model_name: str = MODEL
    tls_root: Path | None = None


@dataclass(frozen=True)
class Target:
    """An opened target. Exactly one of `classifier` and `client` is set.

    Attributes:
        info: description for the result.
        spec: facts about the model.
        engine: engine of the graphs.
        bundle: the bundle, if the target is one.
        classifier: the classifier of a target in this process.
        client: the client of a server.
    """

    info: TargetInfo
    spec: ModelSpec
    engine: Engine
    bundle: Bundle | None = None
    classifier: ZeroShotClassifier | None = None
    client: Client | None = None

    def predict_pixels(self, pixel_values: NDArray[np.float32], findings: FindingSet | None) -> list[Prediction]:
        """Preprocessed pixels to findings."""
        if self.client is not None:
            return self.client.predict_pixels(pixel_values, findings=findings)
        assert self.classifier is not None  # noqa: S101 - for the type checker
        return self.classifier.predict_pixels(pixel_values, [pixel_values.shape[2:]] * len(pixel_values), findings)

    def predict_files(
        self, paths: Sequence[Path], contents: Sequence[bytes], findings: FindingSet | None, *, exact: bool = False
    ) -> list[Prediction]:
        """Encoded files to findings, as `lrclr predict` does."""
        if self.client is not None:
            return self.client.predict(list(contents), findings=findings, exact=exact)
        assert self.classifier is not None  # noqa: S101 - for the type checker
        predictions = []
        for result in predict_files(self.classifier, paths, findings=findings, batch_size=len(paths), exact=exact):
            if result.prediction is None:
                assert result.error is not None  # noqa: S101 - for the type checker
                raise result.error
            predictions.append(result.prediction)
        return predictions

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Decoded images to the model's findings, in calls of at most `max_batch` images."""
        if self.classifier is not None:
            return self.classifier.predict(images, batch_size=self.spec.max_batch)
        assert self.client is not None  # noqa: S101 - for the type checker
        step = self.spec.max_batch
        parts = [self.client.predict(list(images[start : start + step])) for start in range(0, len(images), step)]
        return [each for part in parts for each in part]


def is_server(target: str) -> bool:
    """Whether this is an address, not a file, a folder or ``default``."""
    return not Path(target).exists() and (_ADDRESS.match(target) is not None or ip_address(target) is not None)


@contextmanager
def open_targets(given: Sequence[str], options: OpenOptions | None = None) -> Iterator[list[Target]]:
    """Open all targets, in this order.

    Raises:
        LrclrError: a target cannot be opened.
    """
    options = options or OpenOptions()
    if not given:
        raise UsageError("no target is given", fix="Give a bundle, a checkpoint, or HOST:PORT of a server.")
    found: list[Target] = []
    with ExitStack() as stack:
        for one in given:
            if is_server(one):
                transports = (False, True)[: 1 + options.shared_memory]
                found += [_server(stack, one, options, shared=shared) for shared in transports]
            elif is_bundle(one):
                found += [_bundle(one, options, engine) for engine in options.engines or (None,)]
            else:
                found.append(_checkpoint(one, options))
        yield _labelled(found)


def _bundle(path: str, options: OpenOptions, engine: str | None) -> Target:
    classifier = open_model(path, engine=engine, provider=options.provider, threads=options.threads)
    return _local(classifier, classifier.bundle.manifest.model, options, classifier.bundle)


def _checkpoint(path: str, options: OpenOptions) -> Target:
    from lrclr.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(path, **(options.reading or {}))
    classifier = open_checkpoint(checkpoint, provider=options.provider, threads=options.threads)
    return _local(classifier, checkpoint.config.to_dict(), options, None)


def _local(
    classifier: ZeroShotClassifier, config: dict[str, Any], options: OpenOptions, bundle: Bundle | None
) -> Target:
    spec = classifier.spec
    assert spec.tokenizer is not None  # noqa: S101 - only a server's is None
    tokens = spec.tokenizer.encode(spec.findings.prompts).input_ids.shape[1]
    info = TargetInfo(
        label=f"{spec.kind} {spec.precision} {classifier.engine.name.split(' ')[0]}",
        kind=spec.kind,
        engine=classifier.engine.name,
        precision=spec.precision,
        transport="in process",
        threads=options.threads,
        sha256=spec.sha256,
        checkpoint_sha256=spec.checkpoint_sha256,
        # The operations of an ensemble, whose members may have other sizes, are not counted.
        network=Network.of_config(config, tokens) if len(classifier.members) == 1 else None,
    )
    return Target(info, spec, classifier.engine, bundle, classifier)


def _server(stack: ExitStack, address: str, options: OpenOptions, *, shared: bool) -> Target:
    from lrclr.triton.client import Client, ClientOptions, TritonEngine

    # Without retries: their pauses would be timed.
    used = ClientOptions(retries=0, shared_memory=shared, model=options.model_name, tls_root=options.tls_root)
    client = stack.enter_context(Client(address, used))
    facts = client.describe()
    spec = ModelSpec.of_server(facts)
    transport = "grpc, shared memory" if shared else "grpc"
    info = TargetInfo(
        label=f"server {spec.precision} {transport}",
        kind="server",
        engine=f"triton, {facts['engine']}",
        precision=spec.precision,
        transport=transport,
        threads=None,
        sha256=spec.sha256,
        checkpoint_sha256=spec.checkpoint_sha256,
    )
    return Target(info, spec, TritonEngine(address, spec.sha256, client.options), client=client)


def _labelled(targets: list[Target]) -> list[Target]:
    """Targets with unique labels: equal ones get a number."""
    count: dict[str, int] = {}
    named = []
    for target in targets:
        label = target.info.label
        count[label] = count.get(label, 0) + 1
        label = label if count[label] == 1 else f"{label} #{count[label]}"
        named.append(replace(target, info=structs.replace(target.info, label=label)))
    return named
