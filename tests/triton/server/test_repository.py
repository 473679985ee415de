"""The repository of a running server: what is put into it, and what a refused bundle leaves in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr import Bundle
from lrclr.bundle import SERVER_MODEL
from lrclr.contract import ModelNames
from lrclr.errors import ServerError

# Private: the folder that Triton polls, without a server.
from lrclr.triton.server._repository import ServedRepository
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> ServedRepository:
    (tmp_path / "root").mkdir()
    return ServedRepository(tmp_path / "root", ModelNames())


def seen(repository: ServedRepository) -> dict[str, str]:
    """All files that the server sees, also through links."""
    found: dict[str, str] = {}
    for model in ModelNames().all:
        for place in sorted((repository.repository / model).iterdir()):
            base = f"{model}/{place.name}"
            found |= {f"{base}/{name}": digest for name, digest in bundles.digests(place).items()}
            if place.is_file():
                found[base] = place.read_text()
    return found


def changed(bundle: Path, model: str, change: Callable[[Any], None]) -> Bundle:
    """A bundle with another configuration and a matching manifest."""
    file = bundle / model / "config.pbtxt"
    config = text_format.Parse(file.read_text(), triton.ModelConfig())
    change(config)
    file.write_text(text_format.MessageToString(config))
    return Bundle(bundles.signed(bundle))


def test_a_version_appears_and_goes(repository: ServedRepository, folder: Path) -> None:
    bundle = Bundle(folder)
    first = repository.prepare(bundle)
    assert not [name for name in seen(repository) if "/1/" in name]
    repository.publish(first, ModelNames().all)
    there = seen(repository)
    assert {f"lrclr/1/bundle/{name}" for name in bundle.manifest.files} <= there.keys()
    assert there["image_encoder/1/model.onnx"] == bundle.manifest.files["image_encoder/1/model.onnx"]["sha256"]
    assert (repository.repository / "lrclr/1/model.py").read_text() == SERVER_MODEL
    again = repository.prepare_again()
    repository.publish(again, ModelNames().all)
    repository.drop(first)
    assert (again, repository.version) == (2, 2)
    assert {name.replace("/2", "/1", 1) for name in seen(repository)} == there.keys()
    repository.drop(again)
    assert not list((repository.repository.parent / "bundles").iterdir())


def test_a_refused_bundle_changes_nothing(repository: ServedRepository, folder: Path, tmp_path: Path) -> None:
    repository.publish(repository.prepare(Bundle(folder)), ModelNames().all)
    before = seen(repository)
    for name in ("image_encoder", "lrclr"):
        other = bundles.copied(folder, tmp_path / name)
        for warmup in other.glob("*/warmup/*"):
            warmup.write_bytes(bytes(warmup.stat().st_size))

        def widen(config: Any) -> None:
            config.output[0].dims[0] += 1

        with pytest.raises(ServerError, match=f"configuration of {name} differs"):
            repository.prepare(changed(other, name, widen))
    assert seen(repository) == before
    assert len(list((repository.repository.parent / "bundles").iterdir())) == 1
    # Other warm-up values with the same configuration are loaded, and do not change the files that all versions share.
    alike = bundles.copied(folder, tmp_path / "alike")
    for warmup in alike.glob("*/warmup/*"):
        warmup.write_bytes(bytes(warmup.stat().st_size))
    repository.publish(repository.prepare(Bundle(bundles.signed(alike))), ModelNames().all)
    assert before.items() <= seen(repository).items()


def set_parameter(config: Any) -> None:
    config.parameters["EXECUTION_ENV_PATH"].string_value = "$$TRITON_MODEL_DIRECTORY/env.tar.gz"


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("image_encoder", lambda config: setattr(config, "backend", "python"), "backend 'python'"),
        ("lrclr", lambda config: setattr(config, "backend", "onnxruntime"), "backend 'onnxruntime'"),
        ("lrclr", set_parameter, "contains a path"),
        ("text_encoder", lambda config: setattr(config, "default_model_filename", "../x.onnx"), "contains a path"),
        ("text_encoder", lambda config: setattr(config, "platform", "ensemble"), "platform"),
        ("fusion_head", lambda config: config.model_operations.op_library_filename.append("x.so"), "model_operations"),
        ("fusion_head", lambda config: config.model_repository_agents.agents.add(name="x"), "model_repository_agents"),
        ("image_encoder", lambda config: setattr(config, "name", "other"), "the name 'other'"),
    ],
)
def test_a_configuration_that_asks_for_other_code_is_refused(
    repository: ServedRepository, folder: Path, tmp_path: Path, model: str, change: Callable[[Any], None], said: str
) -> None:
    forged = changed(bundles.copied(folder, tmp_path / "forged"), model, change)
    with pytest.raises(ServerError, match=f"configuration of {model} is refused: .*{said}"):
        repository.prepare(forged)
    assert not list((repository.repository.parent / "bundles").iterdir())
