"""The picture of a prediction: what is drawn, where, and in which colour. Files are complete or absent."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr.errors import ImageError, LrclrError, UsageError
from lrclr.inference import FindingResult, Prediction, Region, draw_heatmap, drawing, save_heatmap
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.inference.drawing import Box

GREY = 201  # the shade of a flat radiograph, which nothing else in the picture has
SIDE = 300


def flat(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    return np.full((height, width), GREY, np.uint8)


def region(patch: int, left: float, top: float, size: float = 60, importance: float = 0.1) -> Region:
    return Region(patch, importance, (left, top, left + size, top + size))


LEFT, RIGHT = region(0, 60, 30), region(1, 210, 150)


def prediction_of(
    regions: Sequence[Region] = (),
    attention: Sequence[Sequence[float]] = ((),),
    *,
    names: Sequence[str] | None = None,
    size: tuple[int, int] = (SIDE, SIDE),
    trained: bool = True,
    highest: float = 0.95,
) -> Prediction:
    """A prediction with one finding for each row of `attention`, each less probable than the one before."""
    names = names or [f"Finding {number}" for number in range(len(attention))]
    findings = tuple(
        FindingResult(name, highest - 0.01 * number, 0.2, 0.1, 0.3, 0.1, tuple(row))
        for number, (name, row) in enumerate(zip(names, attention, strict=True))
    )
    return Prediction(*size, findings, tuple(regions), 0.5 if trained else 0.0, trained)


def drawn_heatmap(prediction: Prediction, **options: object) -> NDArray[np.int16]:
    """A picture whose panels are as wide as the flat radiograph, so that pixels are not scaled."""
    image = flat(prediction.height, prediction.width)
    return np.asarray(draw_heatmap(image, prediction, panel_width=SIDE, **options), np.int16)  # type: ignore[arg-type]


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where runs of True begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def panel_positions(prediction: Prediction, **options: object) -> list[Box]:
    """Positions of the panels, row by row, found in a picture without regions."""
    bare = tuple(dataclasses.replace(finding, region_attention=()) for finding in prediction.findings)
    page = drawn_heatmap(dataclasses.replace(prediction, findings=bare, regions=()), **options)
    grey = (page == GREY).all(-1)
    return [
        (left, top, right, bottom)
        for top, bottom in runs(grey.sum(1) > 50)
        for left, right in runs(grey[top:bottom].mean(0) > 0.9)
    ]


def panels(prediction: Prediction, **options: object) -> list[NDArray[np.int16]]:
    page = drawn_heatmap(prediction, **options)
    return [page[top:bottom, left:right] for left, top, right, bottom in panel_positions(prediction, **options)]


def changed(panel: NDArray[np.int16]) -> Box:
    """The bounding box of all pixels that differ from the radiograph."""
    rows, columns = np.nonzero((panel != GREY).any(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def inside(panel: NDArray[np.int16], of: Region) -> NDArray[np.float64]:
    """Mean colour of the lower half of a region, which has no outline and no label."""
    left, top, right, bottom = (round(side) for side in of.box)
    middle = (top + bottom) // 2
    return np.asarray(panel[middle : bottom - 4, left + 4 : right - 4].mean((0, 1)))


def redness(colour: NDArray[np.float64]) -> float:
    return float(colour[0] - colour[1:].mean())


def test_a_spread_is_shown_with_its_probability() -> None:
    prediction = prediction_of([LEFT, RIGHT], [[0.7, 0.3], [0.2, 0.8]])
    first, second = prediction.findings
    first = dataclasses.replace(first, probability_spread=0.012)
    apart = dataclasses.replace(prediction, findings=(first, dataclasses.replace(second, probability_spread=0.2)))
    assert (drawn_heatmap(apart) != drawn_heatmap(prediction)).any()
    other = dataclasses.replace(apart, findings=(dataclasses.replace(first, probability_spread=0.2), apart.findings[1]))
    changes = (drawn_heatmap(apart) != drawn_heatmap(other)).any(-1)
    # In the caption of the finding's panel and in the list, and not in any picture.
    assert len(runs(changes.any(1))) == 2
    for left, top, right, bottom in panel_positions(apart):
        assert not changes[top:bottom, left:right].any()
    assert drawing.percent(0.623, 0.012) == "62.3% ± 1.2%"


def test_a_region_is_outlined_at_its_position() -> None:
    selected, finding = panels(prediction_of([LEFT], [[1.0]]))
    assert changed(selected) == (60, 30, 120, 90)
    assert changed(finding) == (60, 30, 120, 90)
    assert selected[30, 60, 2] > selected[30, 60, 0] + 50, "importance is blue"
    assert finding[30, 60, 0] > finding[30, 60, 2] + 50, "attention is red"


def test_boxes_are_in_pixels_of_the_original_image() -> None:
    large = prediction_of([region(0, 120, 60, 120)], [[1.0]], size=(2 * SIDE, 2 * SIDE))
    assert changed(panels(large)[0]) == (60, 30, 120, 90)


def test_a_tall_image_is_centred_in_its_panel() -> None:
    tall = prediction_of([Region(0, 0.1, (0, 0, 100, 100))], [[1.0]], size=(1000, 100))
    (left, top, right, bottom), _ = panel_positions(tall)
    assert (right - left, bottom - top) == (38, 375), "never taller than five quarters of its panel's width"
    other = panel_positions(prediction_of([LEFT], [[1.0]]))[0]
    assert left + right == other[0] + other[2]
    assert changed(panels(tall)[0])[:3] == (0, 0, 38)


def test_more_attention_is_redder() -> None:
    _, first, second = panels(prediction_of([LEFT, RIGHT], [[0.8, 0.2], [0.3, 0.7]]))
    shades = [redness(inside(first, LEFT)), redness(inside(second, RIGHT)), redness(inside(second, LEFT))]
    assert shades == sorted(shades, reverse=True)
    assert shades[0] > shades[2] + 20 > redness(inside(first, RIGHT)) + 20 > 20
    assert redness(first[140:, :200].mean((0, 1))) == 0, "nothing is red outside the regions"


def test_a_finding_below_a_half_is_fainter_and_its_attention_is_not_written() -> None:
    shades, changes = [], []
    for probability in (0.95, 0.5, 0.4, 0.2, 0.002):
        _, panel = panels(prediction_of([LEFT], [[1.0]], highest=probability))
        shades.append(redness(inside(panel, LEFT)))
        changes.append(int(abs(panel - GREY).max()))
    assert shades[0] == shades[1]
    assert shades[1:] == sorted(shades[1:], reverse=True)
    assert shades[3] == pytest.approx(0.4 * shades[0], abs=2)
    assert changes[-1] <= 2, "of a finding that is absent, neither outline nor label is seen"
    bright = [
        int((panels(prediction_of([LEFT], [[1.0]], highest=probability))[1] > 220).all(-1).sum())
        for probability in (0.5, 0.49)
    ]
    assert bright[0] > bright[1] == 0


def test_the_radiograph_is_visible_through_the_strongest_tint() -> None:
    image = flat()
    image[60:90:2, 60:120] = 90
    page = np.asarray(draw_heatmap(image, prediction_of([LEFT], [[1.0]]), panel_width=SIDE), np.int16)
    left, top, _, _ = panel_positions(prediction_of([LEFT], [[1.0]]))[1]
    strip = page[top + 70 : top + 80, left + 80]
    assert abs(strip[0] - strip[1]).min() > 40


def test_a_patch_that_several_heads_selected_is_drawn_once() -> None:
    half = dataclasses.replace(LEFT, importance=0.05)
    several = panels(prediction_of([half, RIGHT, half], [[0.25, 0.5, 0.25]]))
    once = panels(prediction_of([LEFT, RIGHT], [[0.5, 0.5]]))
    assert (several[1] == once[1]).all(), "attention is summed"
    assert (inside(several[0], LEFT) == inside(once[0], LEFT)).all(), "importance is summed"
    assert (inside(several[0], LEFT) == inside(several[0], RIGHT)).all()
    label = np.nonzero((several[0] != once[0]).any(-1))
    assert label[0].max() < 60, "only how often it was picked is written into it"
    assert label[1].max() < 90


def test_an_untrained_fusion_head_shows_no_attention() -> None:
    prediction = prediction_of([LEFT, RIGHT], [[0.8, 0.2], [0.3, 0.7]], trained=False)
    page = drawn_heatmap(prediction)
    assert (page[..., 0] <= page[..., 1] + 8).all(), "nothing is red"
    assert len(panel_positions(prediction)) == 1
    assert changed(panels(prediction)[0]) == (60, 30, 270, 210)
    other = prediction_of([LEFT, RIGHT], [[0.1, 0.9], [0.5, 0.5]], trained=False)
    assert (page == drawn_heatmap(other)).all(), "attention changes nothing"
    trained_top, untrained_top = (
        panel_positions(prediction_of([LEFT], [[1.0]], trained=flag))[0][1] for flag in (True, False)
    )
    assert untrained_top > trained_top + 10, "a line above the panels says why"


def test_regions_in_the_padding_are_skipped_and_boxes_clipped() -> None:
    padding = [Region(7, 0.1, (300, 0, 300, 60)), Region(8, 0.1, (10, 0, 50, 0))]
    assert all((panel == GREY).all() for panel in panels(prediction_of(padding, [[0.5, 0.5]])))
    assert changed(panels(prediction_of([region(0, 270, -30), *padding], [[0.2, 0.4, 0.4]]))[0]) == (270, 0, 300, 30)
    nowhere = Region(9, 0.1, (float("nan"), 0, 40, 40))
    assert (panels(prediction_of([nowhere], [[1.0]]))[0] == GREY).all()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_equal_weights_have_equal_shades(weight: float) -> None:
    same = [dataclasses.replace(each, importance=weight) for each in (LEFT, RIGHT)]
    for panel in panels(prediction_of(same, [[weight, weight]])):
        assert (inside(panel, LEFT) == inside(panel, RIGHT)).all()
        assert (abs(inside(panel, LEFT) - GREY) > 1).any() == (weight > 0)


def test_small_boxes_have_no_labels() -> None:
    small = [region(0, 100, 100, 18), region(1, 118, 100, 18)]
    _, finding = panels(prediction_of(small, [[0.7, 0.3]]))
    left, top, right, bottom = changed(finding)
    assert bottom - top > 18 or right - left > 36, "the labels stand beside the boxes"
    dark = (finding[102:116, 102:134] < 60).all(-1)
    assert not dark.any()


def test_the_most_probable_findings_have_panels() -> None:
    many = prediction_of([LEFT], [[1.0]] * 9)
    assert len(panel_positions(many)) == 1 + 5
    assert len(panel_positions(many, columns=2)) == 1 + 3
    named = prediction_of([LEFT, RIGHT], [[1.0, 0.0]] * 8 + [[0.0, 1.0]])
    assert len(panel_positions(named, findings=["Finding 8", "Finding 0", "Finding 8"])) == 1 + 2
    _, first, last = panels(named, findings=["Finding 8", "Finding 0"])
    assert redness(inside(last, RIGHT)) > 20 > redness(inside(last, LEFT))
    assert redness(inside(first, LEFT)) > 20 > redness(inside(first, RIGHT))
    assert len(panel_positions(many, findings=[])) == 1


def test_alpha_is_in_the_footer() -> None:
    prediction = prediction_of([LEFT], [[1.0]])
    rows = (drawn_heatmap(prediction) != drawn_heatmap(dataclasses.replace(prediction, alpha=0.25))).any((1, 2))
    assert rows.any()
    assert not rows[: panel_positions(prediction)[-1][3]].any()


@pytest.mark.parametrize("trained", [True, False])
def test_an_unknown_finding_is_refused(trained: bool) -> None:
    with pytest.raises(UsageError, match=r"no finding 'Gout'\. The findings are: Finding 0, Finding 1"):
        draw_heatmap(flat(), prediction_of([LEFT], [[1.0], [1.0]], trained=trained), findings=["Finding 0", "Gout"])


@pytest.mark.parametrize(
    "options", [{"columns": 0}, {"columns": 13}, {"panel_width": 159}, {"panel_width": 2001}], ids=str
)
def test_sizes_out_of_bounds_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot have"):
        draw_heatmap(
            flat(), prediction_of(), columns=options.get("columns", 3), panel_width=options.get("panel_width", 480)
        )


def test_a_picture_of_gigabytes_is_refused() -> None:
    names = [f"Finding {number}" for number in range(60)]
    with pytest.raises(UsageError, match="60 findings is too large"):
        draw_heatmap(flat(), prediction_of([LEFT], [[1.0]] * 60), findings=names, panel_width=2000)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="image is 300 x 200, but the prediction is for one of 300 x 300"):
        draw_heatmap(flat(300, 200), prediction_of())
    with pytest.raises(UsageError, match="attention on 1 regions, but the prediction has 2"):
        draw_heatmap(flat(), prediction_of([LEFT, RIGHT], [[1.0]]))
    with pytest.raises(UsageError, match="NaN or infinity"):
        draw_heatmap(flat(), prediction_of([LEFT], [[float("nan")]]))


@pytest.mark.parametrize(
    "image",
    [np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE, 4), np.uint8), np.zeros((0, SIDE), np.uint8), [[1]]],
    ids=["float", "four channels", "empty", "list"],
)
def test_an_array_that_is_not_a_radiograph_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError):
        draw_heatmap(image, prediction_of())


@settings(max_examples=40, deadline=None)
@given(
    height=st.one_of(st.just(32), st.integers(1, 700)),
    width=st.one_of(st.just(32), st.integers(1, 700)),
    colour=st.booleans(),
    trained=st.booleans(),
    columns=st.integers(1, 4),
    panel_width=st.integers(160, 320),
    data=st.data(),
)
def test_any_shape_is_drawn(
    height: int, width: int, colour: bool, trained: bool, columns: int, panel_width: int, data: st.DataObject
) -> None:
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3)[: 3 if colour else 2], np.uint8)
    side = st.floats(-50, 800)
    boxes = data.draw(st.lists(st.tuples(side, side, side, side), max_size=12))
    weights = st.floats(0, 1)
    regions = [Region(data.draw(st.integers(0, 48)), data.draw(weights), box) for box in boxes]
    count = data.draw(st.integers(0, 24))
    row = data.draw(st.lists(weights, min_size=len(boxes), max_size=len(boxes)))
    prediction = prediction_of(regions, [row] * count, size=(height, width), trained=trained)
    picture = draw_heatmap(image, prediction, columns=columns, panel_width=panel_width)
    assert picture.mode == "RGB"
    assert panel_width <= picture.width <= (columns + 1) * (panel_width + 20)
    assert picture.height <= 4 * 1.6 * panel_width + 24 * 30 + 400


@pytest.mark.parametrize("shape", [(3, 1900), (1900, 3), (32, 32)])
def test_extreme_shapes_are_drawn_with_their_real_boxes(shape: tuple[int, int]) -> None:
    geometry = PreprocessSpec.clip().geometry(*shape)
    regions = [Region(patch, 0.1, geometry.box(patch, 32)) for patch in range(49)]
    picture = draw_heatmap(flat(*shape), prediction_of(regions, [[1 / 49] * 49], size=shape))
    assert picture.mode == "RGB"


def test_a_large_image_takes_less_than_a_second() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3000, 2500, 3), np.uint8)
    prediction = prediction_of([region(0, 100, 100, 500)], [[1.0]] * 14, size=(3000, 2500))
    start = time.process_time()
    draw_heatmap(image, prediction)
    assert time.process_time() - start < 1


def test_the_image_is_not_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 480), np.uint8)
    before = image.copy()
    prediction = prediction_of([LEFT], [[1.0]], size=(480, 480))
    first = draw_heatmap(image, prediction)
    assert (image == before).all()
    image.setflags(write=False)
    assert (np.asarray(draw_heatmap(image, prediction)) == np.asarray(first)).all()
    mirrored = image[:, ::-1]
    mirrored_copy = np.ascontiguousarray(mirrored)
    pictures = [np.asarray(draw_heatmap(each, prediction)) for each in (mirrored, mirrored_copy)]
    assert (pictures[0] == pictures[1]).all()


def test_any_name_can_be_drawn() -> None:
    names = ["胸水", "Épanchement", "a\nb\x00", "\ud800", "مرض", "\u0301", "🫁\u200d🫁", "", " ", "W" * 5000, "½ × – x"]
    prediction = prediction_of([LEFT], [[1.0]] * len(names), names=names)
    page = drawn_heatmap(prediction, findings=names, title="\ud800 胸\n" + "long " * 900)
    assert page.shape[1] == drawn_heatmap(prediction, findings=names).shape[1]
    assert len(panel_positions(prediction, findings=names)) == 1 + len(names)
    with pytest.raises(UsageError):
        draw_heatmap(flat(), prediction, findings=["胸"])


def test_accents_that_the_font_lacks_are_removed() -> None:
    accented, plain = (
        drawn_heatmap(prediction_of([LEFT], [[1.0]], names=[name])) for name in ("Œdème \u00d7", "Œdeme x")
    )
    assert (accented == plain).all()


def test_long_names_are_cut_before_the_probability() -> None:
    pages = [drawn_heatmap(prediction_of([LEFT], [[1.0]], names=[name])) for name in ("W" * 60, "W" * 90)]
    assert (pages[0] == pages[1]).all()


def test_the_file_has_the_picture_and_no_metadata(tmp_path: Path) -> None:
    prediction = prediction_of([LEFT], [[1.0]])
    target = tmp_path / "picture.PNG"
    target.write_bytes(b"older")
    save_heatmap(target, flat(), prediction, columns=2, panel_width=200, title="Title", findings=["Finding 0"])
    expected = draw_heatmap(flat(), prediction, columns=2, panel_width=200, title="Title", findings=["Finding 0"])
    with Image.open(target) as saved:
        assert saved.format == "PNG"
        assert saved.info == {"Software": "lrclr", "Comment": "research use only"}
        assert (np.asarray(saved) == np.asarray(expected)).all()
    assert list(tmp_path.iterdir()) == [target]


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"its name does not end in \.png"):
        save_heatmap(tmp_path / "picture.jpg", flat(), prediction_of())


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    for target, why in [
        (tmp_path / "missing" / "a.png", "No such file"),
        (tmp_path / "file" / "a.png", "Not a directory"),
        (tmp_path / "folder.png", "not a file"),
    ]:
        with pytest.raises(LrclrError, match=why) as caught:
            save_heatmap(target, flat(), prediction_of(), panel_width=160)
        assert str(target) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.png"
    target.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LrclrError, match=r"a\.png could not be written: No space left on device"):
        save_heatmap(target, flat(), prediction_of(), panel_width=160)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"older"
