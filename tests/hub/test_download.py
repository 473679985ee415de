"""`hf:OWNER/NAME` instead of a checkpoint path: the real library with a hub on this machine."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import constants

from lrclr import Bundle, load_checkpoint
from lrclr.bench import open_targets
from lrclr.cli import main
from lrclr.errors import CheckpointError, HubError, MissingExtraError, UsageError
from lrclr.hub import HubReference, hub_reference, upload_files
from lrclr.samples import sample_paths
from tests import bundles
from tests.families import networks
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hub.server import Hub

NAME = "owner/chest-clip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint: an LRCLR folder."""
    return bundles.checkpoint_folder(tmp_path_factory.getbasetemp())


def same_weights(one: Any, other: Any) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_is_read_and_its_commit_is_kept(hub: Hub, folder: Path, tmp_path: Path) -> None:
    old = hub.add(NAME, folder)
    new = hub.add(NAME, {**hub.repositories[NAME].files, "README.md": b"newer"})
    hub.repositories[NAME].refs["v1"] = old
    for revision, commit in ((None, new), ("main", new), ("v1", old), (old, old)):
        checkpoint = load_checkpoint(str(HubReference(NAME, revision)))
        assert checkpoint.origin == f"hf:{NAME}@{commit}"
        assert same_weights(checkpoint, load_checkpoint(folder))
    assert checkpoint.sha256 == load_checkpoint(folder).sha256
    checkpoint.save(tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").origin == f"hf:{NAME}@{old}"


def test_a_path_on_this_machine_comes_first(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "hf:owner" / "here")
    assert load_checkpoint("hf:owner/here").origin == ""
    assert hub.requests == []


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "siglip": networks.siglip_folder,
    "dual-encoder": networks.dual_encoder_folder,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_what_it_needs_and_nothing_else(hub: Hub, tmp_path: Path, family: str) -> None:
    source = FAMILIES[family](tmp_path / "source")
    needed = {path.name for path in source.iterdir()}
    extra = {
        "modeling_evil.py": b"raise SystemExit(3)",
        "pytorch_model.bin": b"the same weights again",
        "tf_model.h5": b"and again",
        "model.onnx": b"and again",
        "README.md": b"# card",
        "nested/model.safetensors": b"another network",
    }
    for name, content in extra.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    commit = hub.add(NAME, source)
    assert "modeling_evil.py" not in needed
    checkpoint = load_checkpoint(f"hf:{NAME}")
    assert (checkpoint.config.family, checkpoint.origin) == (family, f"hf:{NAME}@{commit}")
    assert not hub.fetched() & extra.keys()
    assert hub.fetched() <= needed
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".py"]
    assert same_weights(checkpoint, load_checkpoint(source))


def test_a_vocabulary_comes_with_its_settings(hub: Hub, tmp_path: Path) -> None:
    """Without ``tokenizer_config.json``, a cased vocabulary would be read in lower case, as the default is."""
    source = networks.dual_encoder_folder(tmp_path / "source")
    (source / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    hub.add(NAME, source)
    read = load_checkpoint(f"hf:{NAME}").tokenizer
    assert read.sha256 == load_checkpoint(source).tokenizer.sha256
    assert read.encode(["EDEMA"]).input_ids.tolist() != read.encode(["edema"]).input_ids.tolist()


def test_open_clip_repositories(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's own layout. If transformers' layout is beside it, that one is read, as for a folder."""
    original, config = networks.open_clip_clip(16, 4.0, custom=False, quick_gelu=False)
    recipe = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    source = networks.open_clip_folder(tmp_path / "source", original, config, recipe)
    hub.add(NAME, {**{path.name: path.read_bytes() for path in source.iterdir()}, "code.py": b""})
    options: dict[str, Any] = {"tokenizer": "clip"} if config["text_cfg"]["vocab_size"] > 49000 else {}
    assert same_weights(load_checkpoint(f"hf:{NAME}", **options), load_checkpoint(source, **options))
    assert "code.py" not in hub.fetched()


def test_weights_in_shards(hub: Hub, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = networks.siglip_folder(tmp_path / "source")
    state = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(state)
    table: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, source / file, metadata={"format": "pt"})
        table |= dict.fromkeys(part, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    hub.add(NAME, source)
    assert same_weights(load_checkpoint(f"hf:{NAME}"), load_checkpoint(source))
    outside = {**hub.repositories[NAME].files}
    outside["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode()
    hub.add(NAME, outside)
    with pytest.raises(CheckpointError, match="is not an index of weight files"):
        load_checkpoint(f"hf:{NAME}")
    missing = {
        **hub.repositories[NAME].files,
        "model.safetensors.index.json": b'{"weight_map": {"a": "no.safetensors"}}',
    }
    hub.add(NAME, missing)
    with pytest.raises(CheckpointError, match=r"has no no\.safetensors: its model\.safetensors\.index\.json names"):
        load_checkpoint(f"hf:{NAME}")


def test_what_is_in_the_cache_is_not_downloaded_again_and_is_enough_offline(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(NAME, folder)
    load_checkpoint(f"hf:{NAME}")
    hub.requests.clear()
    load_checkpoint(f"hf:{NAME}")
    assert hub.fetched() == set()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    for name in (f"hf:{NAME}", f"hf:{NAME}@{commit}"):
        assert load_checkpoint(name).origin == f"hf:{NAME}@{commit}"
    with pytest.raises(HubError, match=r"hf:owner/other is not in the cache .* Unset HF_HUB_OFFLINE"):
        load_checkpoint("hf:owner/other")
    assert hub.requests == []


def test_without_a_network_no_old_version_is_taken_in_silence(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, folder)
    load_checkpoint(f"hf:{NAME}")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached.*HF_HUB_OFFLINE=1 uses what"):
        load_checkpoint(f"hf:{NAME}")


def test_private_and_gated_repositories_need_the_users_token(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("owner/private", folder, private=True)
    hub.add("owner/gated", folder, gated=True)
    hub.tokens = {"good": {"owner/private", "owner/gated"}, "hf_stranger": set()}
    told = {
        "owner/private": "there is no repository 'owner/private' on the hub, or this account cannot see it",
        "owner/gated": "hf:owner/gated is gated",
    }
    for token in (None, "hf_stranger"):
        if token:
            (tmp_path / "token").write_text(token)
        for name, text in told.items():
            assert main(["convert", f"hf:{name}", str(tmp_path / "out")]) == 1
            error = capsys.readouterr().err
            assert text in error
            assert "hf auth login" in error
            assert "hf_stranger" not in error
    assert f"{hub.url}/owner/gated" in error
    (tmp_path / "token").write_text("good")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(HubError, match="does not let this account read owner/private: it answered 401"):
        load_checkpoint("hf:owner/private")
    monkeypatch.delenv("HF_TOKEN")
    for name in told:
        assert load_checkpoint(f"hf:{name}").origin.startswith(f"hf:{name}@")


def test_every_error_has_its_line_and_exit_code(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(NAME, folder)
    hub.add("owner/files", {"weights.pt": b"x", "README.md": b""})
    hub.add("owner/resnet", {"config.json": b'{"model_type": "resnet"}', "model.safetensors": b"x"})
    for name, code, told in (
        ("hf:owner/unknown", 1, "there is no repository 'owner/unknown'"),
        (f"hf:{NAME}@v9", 1, f"{NAME} has no revision 'v9'"),
        ("hf:owner/files", 1, "has neither config.json nor open_clip_config.json. Download one of its files with"),
        ("hf:owner/resnet", 1, "a ResNet has no attention over patches"),
        ("hf:chest", 2, "is not the name of a repository"),
        ("hf:owner/../x", 2, "is not the name of a repository"),
        (f"hf:{NAME}@", 2, "is not the name of a repository"),
        (f"hf:{NAME}@../x", 2, "is not the name of a repository"),
    ):
        assert main(["convert", name, str(tmp_path / "out")]) == code, name
        assert told in capsys.readouterr().err, name
    assert "model.safetensors" not in hub.fetched()
    hub.fault = lambda _method, path: 503 if path.startswith("/api/") else None
    assert main(["convert", f"hf:{NAME}", str(tmp_path / "out")]) == 1
    assert "the hub answered 503" in capsys.readouterr().err


def test_a_damaged_download_is_refused(hub: Hub, folder: Path) -> None:
    hub.add(NAME, folder)
    hub.spoil = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(HubError, match=r"model\.safetensors of hf:\S+ is damaged: its SHA-256 is not the one"):
        load_checkpoint(f"hf:{NAME}")


def test_a_full_disk(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, folder)
    with bundles.no_large_files(50_000), pytest.raises(HubError, match=r"cache of huggingface_hub, .*File too large"):
        load_checkpoint(f"hf:{NAME}")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(HubError, match=r"No space left on device\. Make room, or set HF_HOME"):
        load_checkpoint(f"hf:{NAME}")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[hub\]'"):
        load_checkpoint(f"hf:{NAME}")


def test_the_manifest_names_the_commit(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pipeline is that of every export. torch's graphs come from the tests' cache."""
    commit = hub.add(NAME, folder)
    with exporting_once():
        assert main(["export", f"hf:{NAME}", "-o", str(tmp_path / "bundle"), "--fp32", "--engine", "onnxruntime"]) == 0
    manifest = Bundle(tmp_path / "bundle").manifest
    assert manifest.checkpoint["origin"] == f"hf:{NAME}@{commit}"
    assert manifest.checkpoint["sha256"] == bundles.sha256_of(folder / "model.safetensors")
    assert f"hf:{NAME}@{commit}" in capsys.readouterr().err


def test_other_commands_take_the_name_too(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(NAME, folder)
    name, image = f"hf:{NAME}@main", sample_paths()[0]
    assert main(["convert", name, str(tmp_path / "out")]) == 0
    assert main(["embed", str(image), "-b", name, "-o", str(tmp_path / "e.parquet")]) == 0
    table = tmp_path / "data.csv"
    table.write_text(f"image,Edema\n{image},1\n{sample_paths()[1]},0\n")
    capsys.readouterr()
    assert main(["evaluate", name, str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["kind"] == "checkpoint"
    assert main(["evaluate", name, str(table), "--store"]) == 2
    assert "cannot hold fitted values" in capsys.readouterr().err
    with open_targets([name]) as (target,):
        assert target.info.kind == "checkpoint"


@pytest.mark.slow
def test_settings_come_from_the_environment(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """In a new process, with only huggingface_hub's own variables."""
    commit = hub.add(NAME, folder, private=True)
    hub.tokens = {"secret": {NAME}}
    code = "import sys; from lrclr.cli import main; sys.exit(main(sys.argv[1:]))"
    usual = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
    usual |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}

    def convert(to: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "convert", f"hf:{NAME}", str(tmp_path / to)]
        return subprocess.run(command, env={**usual, **more}, check=False, capture_output=True, text=True)

    first = convert("one")
    assert first.returncode == 0, first.stderr
    assert len(first.stderr.splitlines()) <= 4, first.stderr
    assert "secret" not in first.stderr
    assert json.loads((tmp_path / "one" / "config.json").read_text())["origin"] == f"hf:{NAME}@{commit}"
    hub.requests.clear()
    assert convert("two", HF_HUB_OFFLINE="1").returncode == 0
    assert hub.requests == []


def test_names() -> None:
    assert hub_reference("folder/checkpoint") is None
    assert hub_reference(Path("hf:o/n@refs/pr/1")) == HubReference("o/n", "refs/pr/1")
    assert str(dataclasses.replace(HubReference("o/n"), revision="v1")) == "hf:o/n@v1"
    for wrong in ("hf:o/n/m", "hf:o/n@a@b", "hf:../n", "hf:o/n@../m", "hf:ö/n", "hf:" + "o" * 5000, "hf:o/n\0"):
        with pytest.raises(UsageError):
            hub_reference(wrong)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}", b"null"])
def test_an_answer_that_is_not_a_hubs_is_told(body: bytes, hub: Hub, folder: Path, monkeypatch: Any) -> None:
    """Like the reply of a proxy that requires a login."""
    hub.add(NAME, folder)
    monkeypatch.setattr("tests.hub.server._Handler._answer", lambda handler: handler._send(200, body))
    with pytest.raises(HubError, match="is not that of a hub"):
        load_checkpoint(f"hf:{NAME}")
    with pytest.raises(HubError, match="is not that of a hub"):
        upload_files(HubReference(NAME), {}, "card", folder="a", mark="card", public=False, message="b")


def test_a_file_of_another_size_is_not_a_fault_of_the_disk(hub: Hub, folder: Path) -> None:
    hub.add(NAME, folder)
    hub.spoil = lambda content: content[:100]
    with pytest.raises(HubError, match=r"a file of hf:owner/chest-clip.* was not downloaded whole"):
        load_checkpoint(f"hf:{NAME}")


def test_a_download_that_was_interrupted_is_finished_later(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there of a checkpoint is never taken for the whole, with and without the network."""
    commit = hub.add(NAME, folder)
    # The small files arrive, and the weights break off in the middle.
    hub.spoil = lambda content: content[: len(content) // 2]
    with pytest.raises(HubError, match="was not downloaded whole"):
        load_checkpoint(f"hf:{NAME}")
    assert [path for path in (tmp_path / "cache").rglob("config.json") if path.is_file()]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in (f"hf:{NAME}", f"hf:{NAME}@{commit}"):
        with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
            load_checkpoint(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.spoil = lambda content: content
    read = load_checkpoint(f"hf:{NAME}")
    assert read.origin == f"hf:{NAME}@{commit}"
    assert same_weights(read, load_checkpoint(folder))


def test_a_hub_that_does_not_answer_is_given_up(hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    stopped = threading.Event()
    monkeypatch.setattr("tests.hub.server._Handler._answer", lambda _handler: stopped.wait(30))
    try:
        with pytest.raises(HubError, match="cannot be reached"):
            load_checkpoint(f"hf:{NAME}")
    finally:
        stopped.set()
