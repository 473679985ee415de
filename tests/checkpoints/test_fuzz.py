"""A damaged checkpoint is loaded or refused with a `CheckpointError`."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrclr.checkpoints import load_checkpoint
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.checkpoints.conftest import OpenAiFactory

EXAMPLES = 100
damage = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class DamagedFile:
    """A file and ways to damage it. Most damage is put into its structure, since most of a file is weights."""

    def __init__(self, original: Path, structure: list[range], link: Path, checkpoint: Path, **options: Any) -> None:
        self.original, self.structure, self.link, self.checkpoint = original, structure, link, checkpoint
        self.whole, self.options = original.read_bytes(), options

    def load(self, data: st.DataObject) -> None:
        """Put the damaged file where the link is, load the checkpoint, and restore the link."""
        spoilt = self.spoilt(data)  # before anything changes: hypothesis may stop in the middle of the call
        self.link.unlink(missing_ok=True)
        self.link.write_bytes(spoilt)
        try:
            with contextlib.suppress(LrclrError):
                load_checkpoint(self.checkpoint, **self.options)
        finally:
            self.link.unlink()
            self.link.symlink_to(self.original)

    def spoilt(self, data: st.DataObject) -> bytes:
        spoilt = bytearray(self.whole)
        place = st.one_of(*(st.integers(r.start, r.stop - 1) for r in self.structure), st.integers(0, len(spoilt) - 1))
        kind = data.draw(st.sampled_from(["flip", "flip", "set", "cut", "remove", "repeat", "digit"]))
        for _ in range(data.draw(st.integers(1, 4)) if kind in ("flip", "set", "digit") else 1):
            where = data.draw(place)
            if kind == "flip":
                spoilt[where] ^= 1 << data.draw(st.integers(0, 7))
            elif kind == "set":
                spoilt[where] = data.draw(st.sampled_from([0, 1, 0x2E, 0x52, 0x7F, 0x80, 0xFF]))
            elif kind == "digit":
                spoilt[where] = data.draw(st.sampled_from(b'0123456789e-."[{'))
            elif kind == "cut":
                del spoilt[where:]
            elif kind == "remove":
                del spoilt[where : where + data.draw(st.integers(1, 64))]
            else:
                spoilt[where:where] = spoilt[where : where + data.draw(st.integers(1, 64))]
        return bytes(spoilt)


def archive_structure(file: Path) -> list[range]:
    """The parts of a zip archive that are not tensors: headers, pickles, and the directory at the end."""
    parts, end = [], 0
    with zipfile.ZipFile(file) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
            data = entry.header_offset + 30 + len(entry.filename)
            if not entry.filename.endswith(".pkl"):
                parts.append(range(entry.header_offset, data))
            else:
                parts.append(range(entry.header_offset, data + entry.file_size))
            end = data + entry.file_size
    pickles = [part for part in parts if len(part) > 1000]
    return [*pickles, range(parts[0].start, parts[0].stop), range(end, file.stat().st_size)]


@pytest.fixture(scope="module", params=["zip", "legacy", "torchscript"])
def openai_file(
    request: pytest.FixtureRequest, openai_clip: OpenAiFactory, tmp_path_factory: pytest.TempPathFactory
) -> DamagedFile:
    model = openai_clip(width=64, layers=1, patch=4, text_layers=1, dimension=4).half()
    file = tmp_path_factory.mktemp("fuzz") / f"{request.param}.pt"
    if request.param == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(model), str(file))
    else:
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=request.param == "zip")
    structure = archive_structure(file) if request.param != "legacy" else [range(4000), range(300)]
    load_checkpoint(file, heads=(1, 1))
    spoilt = file.with_name("spoilt.pt")
    return DamagedFile(file, structure, spoilt, spoilt, heads=(1, 1))


@damage
@given(data=st.data())
def test_damaged_files_are_loaded_or_refused(openai_file: DamagedFile, data: st.DataObject) -> None:
    openai_file.load(data)


@pytest.fixture(scope="module")
def folder_copy(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "folder"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).symlink_to(file)
    load_checkpoint(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "preprocessing.json", "findings.toml", "tokenizer.json"]
)
@settings(damage, max_examples=EXAMPLES // 4)
@given(data=st.data())
def test_damaged_folders_are_loaded_or_refused(folder_copy: Path, name: str, data: st.DataObject) -> None:
    file = (folder_copy / name).resolve()
    parts = {"model.safetensors": [range(10), range(8, 12_000)], "tokenizer.json": [range(3000)]}
    structure = parts.get(name, [range(file.stat().st_size)])
    DamagedFile(file, structure, folder_copy / name, folder_copy).load(data)
