"""The phantom data set, made from a synthetic body."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
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
from benchmarks.phantom.make_dataset import COLUMNS, GENERATOR, Settings
from benchmarks.phantom.picture import SPLITS, make_picture, streams
from benchmarks.phantom.project import camera_of, project, shadow
from benchmarks.phantom.reports import write_report
from lrclr.errors import UsageError
from tests.benchmarks.phantom.bodies import NUMBERS, SHAPE, SPACING, made_up_body, stated_findings, tree, write_ct

if TYPE_CHECKING:
    from benchmarks.phantom.picture import Split

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def body() -> ct.Phantom:
    return made_up_body()


VIEW = render.View((96, 112), 3.5, pitch_deg=6, yaw_deg=-5, roll_deg=4, distance=1000)


@pytest.mark.parametrize("direction", ["AP", "PA"])
def test_the_fast_projection_equals_the_exact_one(body: ct.Phantom, direction: Literal["AP", "PA"]) -> None:
    view = dataclasses.replace(VIEW, direction=direction)
    camera = camera_of(view, SHAPE, SPACING)
    # Without sharp edges, at which interpolation decides the result of both.
    smooth = body.attenuation.copy()
    smooth[:6] = smooth[-6:] = 0
    smooth = ndimage.gaussian_filter(smooth, 1.5, mode="constant")
    exact = render.line_integral(smooth, SPACING, view)
    error = np.abs(project(smooth, camera) - exact)
    assert error.mean() < 0.001 * exact.mean()
    heart = body.region(["heart"])
    fast, reference = shadow(heart, camera), render.footprint(heart, SPACING, view)
    assert (fast & reference).sum() / (fast | reference).sum() > 0.9
    assert not shadow(np.zeros(SHAPE, bool), camera).any()


def test_stretching_makes_the_body_larger(body: ct.Phantom) -> None:
    heart = body.region(["heart"])
    areas = [shadow(heart, camera_of(VIEW, SHAPE, SPACING, stretch=(f, 1.0, f))).sum() for f in (1.0, 1.2)]
    assert areas[1] / areas[0] == pytest.approx(1.44, rel=0.1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FINDINGS)
def test_a_mask_covers_the_changed_part_of_the_picture(body: ct.Phantom, name: str, size: str) -> None:
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


def test_a_lobe_that_is_too_thin_is_refused(body: ct.Phantom) -> None:
    labels = np.zeros_like(body.labels)
    labels[40, 30, 60:70] = NUMBERS["lung_upper_lobe_left"]
    thin = dataclasses.replace(body, labels=labels)
    with pytest.raises(ValueError, match="too thin"):
        opacities.lesion(thin, "lung_upper_lobe_left", np.random.default_rng(0))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**63))
def test_a_report_states_the_findings_of_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw_case(rng)
    report = write_report(case, rng)
    present, denied = stated_findings(report)
    assert present == case.names - {NO_FINDING}
    assert not denied & case.names
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


def test_every_image_has_its_own_random_stream() -> None:
    draws = [
        float(stream.random())
        for seed in (0, 1)
        for split in SPLITS
        for index in range(30)
        for stream in streams(seed, split, index)
    ]
    assert len(set(draws)) == len(draws) == 2 * len(SPLITS) * 30 * 4


def test_external_pictures_look_different(body: ct.Phantom) -> None:
    pictures = [make_picture(body, "external", 0, index, 64) for index in range(6)]
    assert {picture.pixels.shape for picture in pictures} == {(64, 64)}
    barred = [p for p in pictures if not p.pixels[[0, -1]].any() or not p.pixels[:, [0, -1]].any()]
    assert len(barred) >= 4
    assert all((p.pixels == 255).any() for p in pictures)
    assert contact_sheet(pictures).size == (6 * 64, 64 + 30)


@pytest.mark.slow
def test_half_of_the_mixed_pictures_are_of_the_mobile_machine(
    body: ct.Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the mobile machines have much scatter, and only the upright one has little."""
    seen: list[float] = []

    def noting(integral: render.Image, pixel_mm: float, detector: render.Detector, rng: np.random.Generator) -> object:
        seen.append(detector.scatter)
        return render.expose(integral, pixel_mm, detector, rng)

    monkeypatch.setattr("benchmarks.phantom.picture.expose", noting)
    scatter = {}
    for split in SPLITS:
        seen.clear()
        for number in range(24):
            make_picture(body, split, 0, number, 32)
        scatter[split] = np.array(seen)
    for split in ("train", "validation", "test"):
        assert scatter[split].max() < 0.25
    for split in ("mixed", "mixed-validation"):
        assert (scatter[split] < 0.15).sum() > 2
        assert (scatter[split] > 0.25).sum() > 2
        assert scatter[split].max() < 0.35
    assert scatter["external"].min() > 0.25


def make(
    body: ct.Phantom, splits: dict[Split, int], folder: Path, *, workers: int = 1, overwrite: bool = False
) -> None:
    settings = Settings(splits, size=64, seed=3)
    make_dataset.make_dataset(body, settings, folder, ct_sha256={}, workers=workers, overwrite=overwrite)


def test_the_number_of_workers_and_images_does_not_change_an_image(body: ct.Phantom, tmp_path: Path) -> None:
    splits: dict[Split, int] = {"test": 5, "external": 3}
    make(body, splits, tmp_path / "one")
    make(body, splits, tmp_path / "two", workers=2)
    make(body, {"test": 7}, tmp_path / "longer")
    one_worker, two_workers, longer = (tree(tmp_path / name) for name in ("one", "two", "longer"))
    assert one_worker == two_workers
    assert len(one_worker) == 2 * (5 + 3) + 2
    assert all(longer[name] == content for name, content in one_worker.items() if "/test/" in name)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "longer"}


def test_a_manifest_describes_the_pictures(body: ct.Phantom, tmp_path: Path) -> None:
    make(body, {"external": 3, "test": 5}, tmp_path / "set")
    with (tmp_path / "set/manifest.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert tuple(rows[0]) == COLUMNS
    assert [row["split"] for row in rows] == ["external"] * 3 + ["test"] * 5
    assert rows[3]["image"] == "images/test/000000.png"
    for number, row in enumerate(rows):
        with Image.open(tmp_path / "set" / row["image"]) as image, Image.open(tmp_path / "set" / row["mask"]) as mask:
            assert image.mode == mask.mode == "L"
            assert image.size == mask.size == (64, 64)
            bits = np.bitwise_or.reduce(np.asarray(mask), axis=None)
        labels = [int(row[name]) for name in FINDINGS]
        assert [int(bits) >> k & 1 for k in range(len(FINDINGS))] == labels
        assert int(row[NO_FINDING]) == (not any(labels))
        picture = make_picture(body, "test" if number > 2 else "external", 3, number - 3 if number > 2 else number, 64)
        assert row["report"] == picture.report


def test_a_data_set_records_its_settings(body: ct.Phantom, tmp_path: Path) -> None:
    settings = Settings({"test": 2}, size=64)
    hashes = {"cxr.nii.gz": "0" * 64}
    make_dataset.make_dataset(body, settings, tmp_path / "set", ct_sha256=hashes, workers=1, overwrite=False)
    facts = json.loads((tmp_path / "set/dataset.json").read_text(encoding="utf-8"))
    assert facts["splits"] == {"test": 2}
    assert (facts["size"], facts["seed"], facts["spacing_mm"]) == (64, 0, 3.0)
    assert facts["ct_sha256"] == hashes
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["mask_bits"] == list(FINDINGS)
    assert facts["measured"].pop("images_per_second") > 0
    assert facts["measured"] == {"rendered": 2, "reused": 0, "workers": 1}


def test_the_hash_of_the_generator_covers_all_modules() -> None:
    modules = "import sys; print(*(name for name in sys.modules if 'phantom' in name))"
    look = f"import benchmarks.phantom.ct, benchmarks.phantom.picture; {modules}"
    answer = subprocess.run([sys.executable, "-c", look], cwd=ROOT, check=True, capture_output=True, text=True)
    assert sorted(answer.stdout.split()) == sorted(
        ["benchmarks.phantom", *(f"benchmarks.phantom.{name}" for name in GENERATOR)]
    )


def test_a_folder_with_other_files_is_not_changed(body: ct.Phantom, tmp_path: Path) -> None:
    folder_with_other_files = tmp_path / "mine"
    folder_with_other_files.mkdir()
    (folder_with_other_files / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="did not write"):
            make(body, {"train": 1}, folder_with_other_files, overwrite=overwrite)
    assert tree(tmp_path) == {"mine/thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (["--splits", "train"], "with '=' and a number"),
        (["--splits", "train=3,train=4"], "once"),
        (["--splits", "tset=3"], "train, validation, test, external"),
        (["--splits", "train=-3"], "number"),
        (["--splits", "train=0"], "from 1 to 1,000,000"),
        (["--splits", "train=1", "--seed", "-1"], "--seed must be 0 or more"),
        (["--splits", "train=1", "--size", "8"], "--size 32 or more"),
        (["--splits", "train=1"], "the chest CT is incomplete"),
    ],
)
def test_a_wrong_call_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], why: str
) -> None:
    assert make_dataset.main([*wrong, "--ct", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_call_without_output_is_refused() -> None:
    with pytest.raises(SystemExit, match="2"):
        make_dataset.main(["--splits", "train=1"])


def test_a_contact_sheet_alone(tmp_path: Path) -> None:
    write_ct(tmp_path)
    sheet = tmp_path / "sheet.png"
    call = ["--splits", "train=2,external=30", "--size", "32", "--ct", str(tmp_path), "--contact-sheet", str(sheet)]
    assert make_dataset.main(call) == 0
    with Image.open(sheet) as image:
        assert image.size == (6 * 32, 5 * (32 + 30))  # 2 and 24 pictures
