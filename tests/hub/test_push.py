"""`lrclr push`: the listed files of a bundle and a model card, in one commit, private unless requested otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import ModelCard

from lrclr import Bundle
from lrclr.bundle import push_bundle, write_manifest
from lrclr.cli import main
from lrclr.errors import LrclrError
from lrclr.hub import HubReference
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hub.server import Hub

NAME = "owner/bundle"
# huggingface_hub 2.4 uploads large files with a parameter that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture(autouse=True)
def _token(hub: Hub, tmp_path: Path) -> None:
    hub.tokens = {"good": set(), "other": set()}
    (tmp_path / "token").write_text("good")


def test_the_listed_files_and_a_card_are_pushed_in_one_private_commit(
    hub: Hub, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(fp32_bundle), f"hf:{NAME}"]) == 0
    printed = capsys.readouterr()
    repository = hub.repositories[NAME]
    commit = repository.refs["main"]
    assert printed.out == f"hf:{NAME}@{commit}\n"
    assert f"private: {hub.url}/{NAME}/commit/{commit}" in printed.err
    assert repository.private
    assert len(repository.commits) == 2
    files = {f"bundle/{path.relative_to(fp32_bundle).as_posix()}" for path in fp32_bundle.rglob("*") if path.is_file()}
    assert set(repository.files) == {*files, "README.md", ".gitattributes"}
    # The downloaded files are the bundle.
    copy = tmp_path / "copy"
    for name, content in repository.files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    assert Bundle(copy / "bundle").sha256 == Bundle(fp32_bundle).sha256
    card = repository.files["README.md"].decode()
    assert card == (fp32_bundle / "README.md").read_text()
    assert "Research use only. Not a medical device." in card


def test_an_ensemble_is_pushed_with_the_files_of_all_members(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = bundles.exported_ensemble(tmp_path_factory.getbasetemp())
    assert main(["push", str(folder), f"hf:{NAME}"]) == 0
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there = {name.removeprefix("bundle/") for name in hub.repositories[NAME].files if name.startswith("bundle/")}
    assert here == there
    assert any(name.startswith("m2_") for name in there)


def test_a_bundle_with_another_file_is_not_pushed(
    hub: Hub, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = bundles.copied(fp32_bundle, tmp_path / "copy")
    (copy / "patients.csv").write_text("Doe^Jane\n")
    assert main(["push", str(copy), f"hf:{NAME}"]) == 1
    assert "patients.csv" in capsys.readouterr().err
    (copy / "patients.csv").unlink()
    bundles.flip(copy / "golden.npz")
    assert main(["push", str(copy), f"hf:{NAME}"]) == 1
    assert hub.requests == []


def test_a_public_repository_needs_the_option(hub: Hub, fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(fp32_bundle), f"hf:{NAME}", "--public", "--license", "mit", "--message", "First"]) == 0
    repository = hub.repositories[NAME]
    assert not repository.private
    card = repository.files["README.md"].decode()
    assert vars(ModelCard(card).data)["license"] == "mit"
    assert "| License | mit |" in card
    # The bundle itself is unchanged.
    assert "| License | *Not stated* |" in repository.files["bundle/README.md"].decode()
    commits = len(repository.commits)
    assert main(["push", str(fp32_bundle), f"hf:{NAME}"]) == 2
    assert f"hf:{NAME} is public: everyone could see the bundle. Add --public" in capsys.readouterr().err
    assert len(repository.commits) == commits


def test_a_second_push_replaces_the_bundle_and_keeps_what_others_wrote(
    hub: Hub, fp32_bundle: Path, fp16_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(fp32_bundle), f"hf:{NAME}"]) == 0
    repository = hub.repositories[NAME]
    files = {**repository.files, "bundle/old.onnx": b"", "notes.txt": b"mine", "README.md": b"# My own card"}
    hub.add(NAME, files)
    assert main(["push", str(fp16_bundle), f"hf:{NAME}"]) == 0
    assert "README.md of the repository is not from lrclr and was kept" in capsys.readouterr().err
    names = {f"bundle/{path.relative_to(fp16_bundle).as_posix()}" for path in fp16_bundle.rglob("*") if path.is_file()}
    assert set(repository.files) == {*names, "README.md", "notes.txt", ".gitattributes"}
    assert repository.files["README.md"] == b"# My own card"


def test_errors(hub: Hub, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("owner/theirs", {"config.json": b"{}"})
    for arguments, code, told in (
        ([f"hf:{NAME}@v1"], 2, "names a revision"),
        (["folder"], 2, "folder is not a repository on the Hugging Face Hub. Write hf:OWNER/NAME."),
        ([f"hf:{NAME}", "--license", "my own!"], 2, "is not an identifier of a licence"),
        (["hf:owner/theirs", "--public"], 1, "does not let this account write to owner/theirs: it answered 403"),
    ):
        assert main(["push", str(fp32_bundle), *arguments]) == code, arguments
        assert told in capsys.readouterr().err
    (tmp_path / "token").unlink()
    assert main(["push", str(fp32_bundle), f"hf:{NAME}"]) == 1
    error = capsys.readouterr().err
    assert "hf auth login" in error
    assert NAME not in hub.repositories
    assert main(["push", str(tmp_path), f"hf:{NAME}"]) == 1
    assert "is not a bundle" in capsys.readouterr().err


def test_an_upload_that_fails_on_the_way(hub: Hub, fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commit comes last, so an incomplete bundle is not visible."""
    for method, part, status, told in (
        ("PUT", "/lfs/", 400, "the hub answered 400"),
        ("POST", "/commit/", 500, "the hub answered 500"),
        ("POST", "/commit/", 412, "the hub answered 412"),
    ):
        hub.fault = lambda verb, path, method=method, part=part, status=status: (  # type: ignore[misc]
            status if verb == method and part in path else None
        )
        assert main(["push", str(fp32_bundle), f"hf:{NAME}"]) == 1
        assert told in capsys.readouterr().err
        assert set(hub.repositories[NAME].files) == {".gitattributes"}


def test_a_licence_that_the_checkpoint_states_is_not_replaced(
    hub: Hub, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = bundles.copied(fp32_bundle, tmp_path / "copy")
    (copy / "card.toml").write_text('license = "apache-2.0"\n')
    write_manifest(copy, Bundle.unfinished(copy, Bundle(fp32_bundle).manifest).manifest)
    assert main(["push", str(copy), f"hf:{NAME}", "--license", "mit"]) == 2
    assert "the checkpoint states the licence apache-2.0" in capsys.readouterr().err
    assert hub.requests == []
    assert main(["push", str(copy), f"hf:{NAME}", "--license", "apache-2.0"]) == 0
    assert hub.repositories[NAME].files["README.md"] == (copy / "README.md").read_bytes()


def test_with_settings_of_the_environment(hub: Hub, fp32_bundle: Path, tmp_path: Path) -> None:
    code = "import sys; from lrclr.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "other",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
    }
    command = [sys.executable, "-c", code, "push", str(fp32_bundle), f"hf:{NAME}"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"hf:{NAME}@{hub.repositories[NAME].refs['main']}\n"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert hub.tokens["other"] == {NAME}


def test_a_bundle_that_changes_meanwhile_is_not_pushed(hub: Hub, fp32_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(bundles.copied(fp32_bundle, tmp_path / "bundle"))
    name = min(bundle.manifest.files)
    (bundle.path / name).write_bytes((bundle.path / name).read_bytes() + b" ")
    with pytest.raises(LrclrError, match="was changed meanwhile"):
        push_bundle(bundle, HubReference(NAME))
    assert set(hub.repositories[NAME].files) == {".gitattributes"}


def test_a_card_that_is_not_utf_8_is_kept(hub: Hub, fp32_bundle: Path) -> None:
    hub.add(NAME, {"README.md": "Modèle".encode("latin-1")}, private=True)
    hub.tokens["good"].add(NAME)
    assert not push_bundle(Bundle(fp32_bundle), HubReference(NAME)).card
    assert hub.repositories[NAME].files["README.md"] == b"Mod\xe8le"
