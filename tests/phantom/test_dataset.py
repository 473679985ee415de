"""The phantom data set, on a body made up here."""

from __future__ import annotations

import csv
import dataclasses
import re
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from benchmarks.phantom import ct, make_dataset, opacities, render
from benchmarks.phantom.cases import FINDINGS, NO_FINDING, SIZES, Case, Item, draw_case, put_in
from benchmarks.phantom.contact_sheet import contact_sheet
from benchmarks.phantom.make_dataset import COLUMNS, Settings
from benchmarks.phantom.picture import SPLITS, make_picture, streams
from benchmarks.phantom.project import camera_of, project, shadow
from benchmarks.phantom.reports import write_report
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE, SPACING = (80, 60, 90), 4.0
NUMBERS = {name: number for number, name in enumerate([*ct.LUNGS["left"], *ct.LUNGS["right"], "heart"], start=10)}
SOFT, LUNG = (float(value) for value in ct.attenuation_from_hu(np.array([40, -840], np.float32)))


def ellipsoid(centre: tuple[int, int, int], radii: tuple[int, int, int]) -> NDArray[np.bool_]:
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return np.asarray(sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1)


@pytest.fixture(scope="module")
def body() -> ct.Phantom:
    attenuation, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    attenuation[:, 5:55, 5:85] = SOFT
    down = np.arange(SHAPE[0])[:, None, None]
    for side, column in (("right", 25), ("left", 65)):
        lung = ellipsoid((40, 30, column), (28, 20, 15))
        attenuation[lung] = LUNG
        for index, name in enumerate(ct.LUNGS[side]):
            labels[lung & (down >= 10 + index * 20)] = NUMBERS[name]
    heart = ellipsoid((50, 25, 50), (10, 10, 10))
    attenuation[heart], labels[heart] = SOFT, NUMBERS["heart"]
    return ct.Phantom(attenuation, labels, NUMBERS, SPACING)


VIEW = render.View((96, 112), 3.5, pitch_deg=6, yaw_deg=-5, roll_deg=4, distance=1000)


@pytest.mark.parametrize("direction", ["AP", "PA"])
def test_the_quick_projection_is_the_exact_one(body: ct.Phantom, direction: Literal["AP", "PA"]) -> None:
    view = dataclasses.replace(VIEW, direction=direction)
    camera = camera_of(view, SHAPE, SPACING)
    # Without steps, at which both are only as good as their interpolation.
    smooth = body.attenuation.copy()
    smooth[:6] = smooth[-6:] = 0
    smooth = ndimage.gaussian_filter(smooth, 1.5, mode="constant")
    exact = render.line_integral(smooth, SPACING, view)
    error = np.abs(project(smooth, camera) - exact)
    assert error.mean() < 0.001 * exact.mean()
    heart = body.region(["heart"])
    quick, slow = shadow(heart, camera), render.footprint(heart, SPACING, view)
    assert (quick & slow).sum() / (quick | slow).sum() > 0.9
    assert not shadow(np.zeros(SHAPE, bool), camera).any()


def test_stretching_makes_the_body_larger(body: ct.Phantom) -> None:
    heart = body.region(["heart"])
    areas = [shadow(heart, camera_of(VIEW, SHAPE, SPACING, stretch=(f, 1.0, f))).sum() for f in (1.0, 1.2)]
    assert areas[1] / areas[0] == pytest.approx(1.44, rel=0.1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FINDINGS)
def test_a_mask_lies_where_the_picture_changes(body: ct.Phantom, name: str, size: str) -> None:
    side = "" if name in {"Cardiomegaly", "Edema"} else "right"
    lobe = "lung_upper_lobe_right" if name in {"Consolidation", "Atelectasis", "Lung Lesion"} else ""
    item = Item(name, side, lobe, size, 0.5)  # type: ignore[arg-type]
    changed, masks = put_in(body, Case((item,)), np.random.default_rng(0))
    camera = camera_of(dataclasses.replace(VIEW, distance=1800), SHAPE, SPACING)
    change = project(changed.attenuation, camera) - project(body.attenuation, camera)
    seen = shadow(masks[name], camera)
    assert seen.any()
    assert np.abs(change[seen]).mean() > 10 * np.abs(change[~seen]).mean()
    assert (change[seen].mean() < 0) == (name == "Pneumothorax")


def test_a_lobe_too_thin_is_refused(body: ct.Phantom) -> None:
    labels = np.zeros_like(body.labels)
    labels[40, 30, 60:70] = NUMBERS["lung_upper_lobe_left"]
    thin = dataclasses.replace(body, labels=labels)
    with pytest.raises(ValueError, match="too thin"):
        opacities.lesion(thin, "lung_upper_lobe_left", np.random.default_rng(0))


WORDS = {
    "Pleural Effusion": "pleural effusion|pleural fluid",
    "Consolidation": "consolidat",
    "Atelectasis": "atelecta|collapse",
    "Cardiomegaly": "cardiomegaly|enlarge",
    "Pneumothorax": "pneumothorax",
    "Lung Lesion": "nodul|lesion",
    "Edema": "edema",
}
NEGATED = re.compile(r"^(No |There is no |Without |Negative )")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**63))
def test_a_report_says_what_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw_case(rng)
    report = write_report(case, rng)
    said: dict[bool, set[str]] = {True: set(), False: set()}
    for sentence in re.findall(r"[^.]+\.", report):
        there = not NEGATED.match(sentence.strip())
        said[there] |= {name for name, words in WORDS.items() if re.search(words, sentence, re.IGNORECASE)}
    assert said[True] == case.names - {NO_FINDING}
    assert not said[False] & case.names
    assert not re.search(r"[{}]|  | \.|\ba extensive", report, re.IGNORECASE)
    for item in case.items:
        assert item.side in report.lower()
        if item.lobe:
            assert " ".join([item.side, item.lobe.split("_")[1], "lobe"]) in report
    assert case.names == {NO_FINDING} or NO_FINDING not in case.names


def test_every_finding_is_drawn_often() -> None:
    cases = [draw_case(np.random.default_rng(n)) for n in range(2000)]
    for name in (*FINDINGS, NO_FINDING):
        assert 0.08 < np.mean([name in case.names for case in cases]) < 0.35
    texts = {write_report(case, np.random.default_rng(n)) for n, case in enumerate(cases)}
    assert len(texts) > 1800


def test_no_two_images_share_a_stream() -> None:
    draws = [
        float(stream.random())
        for seed in (0, 1)
        for split in SPLITS
        for index in range(30)
        for stream in streams(seed, split, index)
    ]
    assert len(set(draws)) == len(draws) == 2 * 4 * 30 * 4


def test_an_external_picture_is_another_domain(body: ct.Phantom) -> None:
    pictures = [make_picture(body, "external", 0, index, 64) for index in range(6)]
    assert {picture.pixels.shape for picture in pictures} == {(64, 64)}
    barred = [p for p in pictures if not p.pixels[[0, -1]].any() or not p.pixels[:, [0, -1]].any()]
    assert len(barred) >= 4
    assert all((p.pixels == 255).any() for p in pictures)
    assert contact_sheet(pictures).size == (6 * 64, 64 + 30)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_is_the_same_whatever_makes_it(body: ct.Phantom, tmp_path: Path) -> None:
    for name, count, workers in (("one", 5, 1), ("two", 5, 2), ("longer", 7, 1)):
        make = Settings("test", count, size=64, seed=3)
        make_dataset.make_dataset(body, make, tmp_path / name, workers=workers, overwrite=False)
    one, two, longer = (tree(tmp_path / name) for name in ("one", "two", "longer"))
    assert one == two
    assert len(one) == 12
    assert all(longer[name] == content for name, content in one.items() if name.endswith(".png"))
    with (tmp_path / "one/manifest.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        assert row["split"] == "test"
        with Image.open(tmp_path / "one" / row["image"]) as image, Image.open(tmp_path / "one" / row["mask"]) as mask:
            assert image.mode == mask.mode == "L"
            assert image.size == mask.size == (64, 64)
            bits = np.bitwise_or.reduce(np.asarray(mask), axis=None)
        labels = [int(row[name]) for name in FINDINGS]
        assert [int(bits) >> k & 1 for k in range(len(FINDINGS))] == labels
        assert int(row[NO_FINDING]) == (not any(labels))


def test_a_folder_of_others_is_left_alone(body: ct.Phantom, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not ours"):
            make_dataset.make_dataset(body, Settings("train", 1, 64), tmp_path, workers=1, overwrite=overwrite)
    assert tree(tmp_path) == {"thesis.txt": b"mine"}


def test_wrong_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--split", "train", "--ct", str(tmp_path)]
    for wrong in ([], ["-o", "x", "--count", "0"], ["-o", "x", "--seed", "-1"], ["-o", "x", "--size", "8"]):
        with pytest.raises(SystemExit, match="2"):
            make_dataset.main([*start, *wrong])
    assert make_dataset.main([*start, "-o", str(tmp_path / "out")]) == 2
    assert "the chest CT is incomplete" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
