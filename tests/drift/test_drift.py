"""Equal collections give no drift, with the error rate that the level states.

Changes beyond a limit are found and named.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from lrclr.archive import ScoreOptions, score
from lrclr.cli import main
from lrclr.drift import Collection, DriftOptions, compare, html, read_collection
from lrclr.errors import DriftError, UsageError
from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]

FINDINGS = ("Edema", "Pneumothorax", "<b>Fracture</b>")


def collection(seed: int, images: int = 200, shift: float = 0.0, turned: int = 0, moved: float = 0.0) -> Collection:
    """Findings with correlated probabilities, as those of one image are."""
    random = np.random.default_rng(seed)
    common = random.normal(0, 1, (images, 1))
    logits = common + random.normal(0, 1, (images, len(FINDINGS)))
    logits[:, 0] += shift
    embeddings = random.normal(0, 1, (images, 8)).astype(np.float32)
    embeddings[:, 0] += moved
    return Collection(
        bundle="ab" * 32,
        exact=False,
        findings=FINDINGS,
        probability=(1 / (1 + np.exp(-logits))).astype(np.float32),
        warnings=Counter({"turned": turned} if turned else {}),
        failed=3,
        digests=frozenset(f"{seed} {number}" for number in range(images)),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
    )


def test_false_alarms_are_as_rare_as_the_level_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits of 0, only the tests decide. 5 % of 200 comparisons are 10."""
    monkeypatch.setattr("lrclr.drift._compare._PERMUTATIONS", 199)
    options = DriftOptions(level=0.05, distance=0.0, rate=0.0, explained=0.0)
    random = np.random.default_rng(0)
    alarms = 0
    for trial in range(200):
        turned = random.binomial(60, 0.1, 2)
        one = collection(2 * trial, 60, turned=int(turned[0]))
        other = collection(2 * trial + 1, 60, turned=int(turned[1]))
        alarms += bool(compare(one, other, options).drifted)
    assert alarms <= binom.ppf(0.999, 200, 0.05)
    # With a level of one half there are alarms, so the test above can fail.
    assert any(
        compare(collection(2 * trial, 60), collection(2 * trial + 1, 60), replace(options, level=0.5)).drifted
        for trial in range(20)
    )


@pytest.mark.parametrize(
    ("changes", "drifted"),
    [
        ({}, ()),
        ({"shift": 1.5}, ("Edema",)),
        ({"shift": -1.5}, ("Edema",)),
        ({"turned": 40}, ("turned",)),
        ({"moved": 1.5}, ("embeddings",)),
    ],
)
def test_what_changed_is_named(changes: dict[str, Any], drifted: tuple[str, ...]) -> None:
    report = compare(collection(1), collection(2, **changes))
    assert report.drifted == drifted
    if not drifted:
        report.raise_drifted()
    else:
        with pytest.raises(DriftError, match=drifted[0]):
            report.raise_drifted()
    edema = report.findings[0]
    assert edema.higher.value is not None
    assert edema.higher.low is not None
    assert edema.higher.high is not None
    assert edema.higher.low < edema.higher.value < edema.higher.high
    if changes.get("shift"):
        assert (edema.higher.value > 0.5) == (changes["shift"] > 0)
        assert edema.stability > 0.25
    # A significant difference within its limit does not count as drift.
    wide = DriftOptions(distance=0.9, rate=0.9, explained=0.9)
    assert compare(collection(1), collection(2, **changes), wide).drifted == ()


def test_the_distance_of_embeddings_is_estimated_without_bias() -> None:
    """Means of samples differ even if those of the populations do not."""
    random = np.random.default_rng(0)

    def distance(apart: float) -> Any:
        one, other = (
            replace(collection(seed, 100), embeddings=random.normal(0, 0.1, (100, 64)).astype(np.float32))
            for seed in (1, 2)
        )
        assert other.embeddings is not None
        other.embeddings[:, 0] += apart
        report = compare(one, other).embeddings
        assert report is not None
        return report.distance

    same, apart = ([distance(each) for _ in range(20)] for each in (0.0, 0.3))
    assert sum(each.contains(0.0) for each in same) >= 18
    assert sum(each.contains(0.3) for each in apart) >= 17
    assert np.mean([each.value for each in apart]) == pytest.approx(0.3, abs=0.02)
    assert np.mean([each.value for each in same]) < 0.05


def test_figures_against_a_count_by_hand() -> None:
    """A third of the current images have values above all reference values."""
    one, other = collection(1, 30), collection(2, 30, turned=6)
    low = np.linspace(0.1, 0.3, 30, dtype=np.float32)
    high = np.concatenate([low[:20], np.full(10, 0.9, np.float32)])
    probability = np.stack([low] * 3, axis=1)
    one = replace(one, probability=probability)
    other = replace(other, probability=np.stack([high, low, low], axis=1))
    report = compare(one, other)
    edema, same, _ = report.findings
    assert edema.distance == pytest.approx(1 / 3)
    assert (same.distance, same.p, same.stability) == (0.0, 1.0, 0.0)
    assert same.higher.value == pytest.approx(0.5)
    assert edema.higher.value == pytest.approx((10 + sum((rank + 0.5) / 30 for rank in range(20))) / 30)
    turned, failed = report.rates
    assert (turned.reference, turned.current) == (0.0, 0.2)
    assert turned.difference.value == pytest.approx(0.2)
    # Newcombe's interval for the difference between 6 of 30 and 0 of 30.
    assert turned.difference.low == pytest.approx(0.0454, abs=1e-4)
    assert turned.difference.high == pytest.approx(0.3731, abs=1e-4)
    assert failed.reference == failed.current == pytest.approx(3 / 33)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bundle": "0" * 64}, "different bundles"),
        ({"findings": ("Edema", "Pneumothorax", "Rib")}, "different findings"),
        ({"exact": True}, "--exact"),
        ({"probability": np.zeros((5, 3), np.float32)}, "the current collection is too small"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(collection(1), replace(collection(2), **change))


def test_a_page_is_the_same_each_time_and_escapes_names() -> None:
    report = compare(collection(1), collection(2, shift=2.0, turned=30))
    page = html(report)
    assert page == html(report)
    assert "&lt;b&gt;Fracture" in page
    assert "<b>Fracture" not in page
    assert "Drift: Edema, turned" in page
    assert "the picture seems to be turned by a quarter" in page
    bare = html(compare(replace(collection(1), embeddings=None, failed=0), replace(collection(2), failed=0)))
    assert "No drift beyond the limits" in bare
    assert "--embeddings" in bare


def test_level_and_limits_are_checked() -> None:
    for wrong in ({"level": 0.0}, {"level": 1.0}, {"distance": -0.1}, {"rate": float("nan")}):
        with pytest.raises(UsageError):
            DriftOptions(**wrong)


@pytest.fixture(scope="module")
def scored(fp32_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 radiographs, of which 4 have another orientation."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("drift")
    (folder / "in").mkdir()
    for number in range(24):
        with Image.open(sample_paths("png")[number % 4]) as image:
            picture = image.convert("L").rotate(90 if number < 4 else number / 4)
        picture.save(folder / "in" / f"{number:02d}.png", compress_level=1)
    score(folder / "in", folder / "out", ScoreOptions(fp32_bundle, rows_per_part=10, embeddings=True))
    return folder / "out"


def test_files_of_score_are_compared(scored: Path, tmp_path: Path, capsys: Capture) -> None:
    read = read_collection(scored)
    assert (read.scored, read.failed, read.warnings) == (24, 0, Counter(turned=4))
    assert main(["drift", str(scored), str(scored), "--json", "--html", str(tmp_path / "drift.html")]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert (content["drifted"], content["shared"]) == ([], len(read.digests))
    assert [each["name"] for each in content["findings"]] == list(read.findings)
    assert "images are in both collections" in captured.err
    assert "</html>" in (tmp_path / "drift.html").read_text()
    # Another file, with other probabilities, one more warning per row, and embeddings.
    table = pq.read_table(scored)
    values = [[min(1.0, value / 2 + 0.5) for value in row] for row in table["probability"].to_pylist()]
    turned = [row[::-1] for row in table["image_embedding"].to_pylist()]
    columns = {"probability": values, "warnings": [["colour"]] * 24, "image_embedding": turned}
    for name, column in columns.items():
        table = table.drop_columns(name).append_column(name, pa.array(column))
    pq.write_table(table, tmp_path / "now.parquet")
    embeddings = read_collection(tmp_path / "now.parquet").embeddings
    assert embeddings is not None
    assert read.embeddings is not None
    assert embeddings.shape == read.embeddings.shape
    assert main(["drift", str(scored), str(tmp_path / "now.parquet")]) == 3
    captured = capsys.readouterr()
    assert "colour" in captured.out
    assert "embeddings" in captured.err
    assert "the current images differ from the reference" in captured.err


def test_other_files_are_wrong_usage(scored: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for wrong in (tmp_path / "none", tmp_path, tmp_path / "text.parquet", tmp_path / "other.parquet"):
        assert main(["drift", str(scored), str(wrong)]) == 2
        assert str(wrong) in capsys.readouterr().err.replace("\n", "")


_STRINGS, _FLOATS = pa.list_(pa.string()), pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("column", "kind", "spoil"),
    [
        ("probability", _FLOATS, lambda row: None),
        ("probability", _FLOATS, lambda row: [float("nan"), *row[1:]]),
        ("probability", _FLOATS, lambda row: [None, *row[1:]]),
        ("probability", _FLOATS, lambda row: [7.0, *row[1:]]),
        ("probability", _FLOATS, lambda row: row[:1]),
        ("probability", _FLOATS, lambda row: []),
        ("findings", _STRINGS, lambda row: None),
        ("findings", _STRINGS, lambda row: ["\x1b[31m", *row[1:]]),
        ("warnings", _STRINGS, lambda row: None),
        ("warnings", _STRINGS, lambda row: [None]),
        ("warnings", _STRINGS, lambda row: ["\x1b[31m"]),
        ("image_embedding", _FLOATS, lambda row: None),
        ("image_embedding", _FLOATS, lambda row: row[:3]),
        ("image_embedding", _FLOATS, lambda row: [float("inf"), *row[1:]]),
        ("status", pa.int32(), lambda row: 1),
        ("sha256", pa.string(), lambda row: None),
    ],
)
def test_rows_that_score_does_not_write_are_refused(
    column: str, kind: pa.DataType, spoil: Any, scored: Path, tmp_path: Path
) -> None:
    table = pq.read_table(next(scored.glob("part-*.parquet")))
    table = pa.concat_tables([table] * 2)
    if column not in table.column_names:
        table = table.append_column(column, pa.array([[0.6, 0.8, 0.0, 0.0]] * len(table), _FLOATS))
    place = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values = [spoil(values[0]), *(values[1:] if kind != pa.int32() else [1] * (len(values) - 1))]
    wrong = table.set_column(place, pa.field(column, kind), pa.array(values, kind))
    pq.write_table(wrong, tmp_path / "wrong.parquet")
    with pytest.raises(UsageError, match=r"wrong\.parquet"):
        read_collection(tmp_path / "wrong.parquet")


def test_scores_of_an_interrupted_run_are_refused(scored: Path, fp32_bundle: Path, tmp_path: Path) -> None:
    """What is missing is not a random sample."""
    begun = False

    def stop(_: object) -> None:
        nonlocal begun
        if not begun:
            begun = True
            raise KeyboardInterrupt

    options = ScoreOptions(fp32_bundle, rows_per_part=10)
    with pytest.raises(KeyboardInterrupt):
        score(scored.parent / "in", tmp_path / "out", options, on_progress=stop)
    with pytest.raises(UsageError, match="are not complete"):
        read_collection(tmp_path / "out")
    score(scored.parent / "in", tmp_path / "out", options)
    assert read_collection(tmp_path / "out").scored == 24


def test_the_page_does_not_replace_the_scores(scored: Path, capsys: Capture) -> None:
    part = min(scored.glob("*.parquet"))
    before = part.read_bytes()
    assert main(["drift", str(scored), str(scored), "--html", str(part)]) == 2
    assert "is one of the files to read" in capsys.readouterr().err
    assert part.read_bytes() == before


def test_rows_of_several_settings_are_refused(scored: Path, tmp_path: Path) -> None:
    """Like the rows that an interrupted run with --rescore and another alpha leaves."""
    table = pq.read_table(next(scored.glob("part-*.parquet")))
    pq.write_table(table, tmp_path / "part-000000.parquet")
    pq.write_table(table.replace_schema_metadata({"lrclr.settings": "other"}), tmp_path / "part-000001.parquet")
    with pytest.raises(UsageError, match="2 settings: a run with --rescore was interrupted"):
        read_collection(tmp_path)


def test_repeated_images_are_counted() -> None:
    one, other = collection(1), collection(2)
    report = compare(replace(one, digests=frozenset(list(one.digests)[:150])), other)
    assert report.repeated == (50, 0)


def test_repeated_images_are_noted_on_the_page() -> None:
    one = collection(1)
    report = compare(replace(one, digests=frozenset(list(one.digests)[:150])), collection(2))
    assert "50 reference images repeat others: p-values are too small." in html(report)
    assert "50 reference images repeat others: p-values are too small" in report.to_dict()["notes"]


def test_scores_of_other_settings_are_refused(scored: Path, fp32_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    own = read_collection(scored)
    assert own.settings is not None
    score(scored.parent / "in", tmp_path / "other", ScoreOptions(fp32_bundle, alpha=0.125))
    assert main(["drift", str(scored), str(tmp_path / "other")]) == 2
    assert "the collections were scored with another alpha: " in capsys.readouterr().err
    with pytest.raises(UsageError, match="another set of prompts"):
        compare(own, replace(own, settings={**own.settings, "findings": "other"}))
    (tmp_path / "other" / "_run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"_run\.json is damaged"):
        read_collection(tmp_path / "other")
    # A file alone does not have its settings.
    part = tmp_path / "alone.parquet"
    part.write_bytes(next(scored.glob("part-*.parquet")).read_bytes())
    assert read_collection(part).settings is None
    assert read_collection(next(scored.glob("part-*.parquet"))).settings == own.settings
    report = compare(own, replace(own, settings=None))
    assert report.notes[-1].startswith("prompts and alpha of the current scores are not known")
