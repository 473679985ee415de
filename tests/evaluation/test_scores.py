"""Scores of rows equal the classifier's, unreadable images are reported, and files of scores hold no patient data."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrclr import FindingSet, ZeroShotClassifier, read_image
from lrclr.errors import LrclrError, UsageError
from lrclr.evaluation import Scores, load_scores, save_scores, score_rows
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.datasets import ImageDataset
    from tests.evaluation.conftest import MakeScores

ASKED = FindingSet.from_names(["Edema", "Fracture"])


def arrays(scores: Scores) -> list[NDArray[Any]]:
    answers = scores.models[0].answers
    return [*(getattr(answers, name) for name in answers.names()), scores.line, scores.image, scores.labels]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 9), workers=st.integers(1, 3))
def test_scores_equal_the_classifiers_for_every_batch_size(
    classifier: ZeroShotClassifier, data: ImageDataset, batch_size: int, workers: int
) -> None:
    rows, done = data.rows[:7], list[int]()
    scores = score_rows(
        classifier, rows, ASKED, batch_size=batch_size, workers=workers, on_progress=lambda: done.append(1)
    )
    assert (len(scores), len(done)) == (7, 7)
    expected = classifier.predict([read_image(row.image) for row in rows], findings=ASKED)
    got = scores.probability(scores.alpha)
    assert got == pytest.approx(np.array([[f.probability for f in each.findings] for each in expected]), abs=1e-6)
    attention = [[finding.region_attention for finding in each.findings] for each in expected]
    assert scores.models[0].answers.region_attention == pytest.approx(np.array(attention), abs=1e-5)
    assert scores.sizes.tolist() == [[each.height, each.width] for each in expected]
    assert scores.line.tolist() == [row.line for row in rows]
    # The dataset spells the name in lower case. The second image is uncertain.
    assert scores.labels[:, 0].tolist() == [row.labels["edema"] for row in rows]
    assert scores.labels[1, 0] == -1
    assert scores.group.tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_an_unstated_finding_has_no_label(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    scores = score_rows(classifier, data.rows[:3], FindingSet.from_names(["Pneumothorax", "Cyst"]))
    assert scores.labels[2].tolist() == [-2, -2]


def test_unreadable_images_are_left_out_and_reported(
    classifier: ZeroShotClassifier, data: ImageDataset, tmp_path: Path
) -> None:
    bad = tmp_path / "Jane Doe.png"
    bad.write_bytes(b"no picture")
    rows = [data.rows[0], replace(data.rows[1], image=bad), replace(data.rows[2], image=tmp_path / "gone.png")]
    scores = score_rows(classifier, rows, ASKED, skip_bad_rows=True)
    assert [line for line, _ in scores.failures] == [rows[1].line, rows[2].line]
    assert scores.line.tolist() == [rows[0].line]
    for _, reason in scores.failures:
        assert reason
        assert "Jane" not in reason
        assert "gone" not in reason
    with pytest.raises(LrclrError, match=rf"2 of 3 rows .*line {rows[1].line}: .*line {rows[2].line}: ") as caught:
        score_rows(classifier, rows, ASKED)
    assert caught.value.exit_code == 1
    assert "--skip-bad-rows" in str(caught.value)
    with pytest.raises(LrclrError, match="none of 2 images"):
        score_rows(classifier, rows[1:], ASKED, skip_bad_rows=True)
    with pytest.raises(UsageError, match="no images"):
        score_rows(classifier, [], ASKED)


def test_frames_are_different_images(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    rows = [data.rows[0], replace(data.rows[0], frame=0)]
    first, second = score_rows(classifier, rows, ASKED).image
    assert first != second


def test_scores_survive_saving_and_loading(classifier: ZeroShotClassifier, data: ImageDataset, tmp_path: Path) -> None:
    scores = score_rows(classifier, data.rows[:5], ASKED)
    scores = replace(scores.joined(scores), failures=((9, "no image"),), alpha=0.25)
    file, again = tmp_path / "scores.npz", tmp_path / "again.npz"
    save_scores(scores, file)
    save_scores(scores, again)
    assert file.read_bytes() == again.read_bytes()
    got = load_scores(file)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(got), arrays(scores), strict=True))
    for name in ("findings", "failures", "alpha"):
        assert getattr(got, name) == getattr(scores, name)
    assert np.array_equal(got.calibration, scores.calibration)
    assert [model.info for model in got.models] == [model.info for model in scores.models]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.npz", "scores.npz"]


def test_a_file_of_scores_has_no_patient_data(
    classifier: ZeroShotClassifier, data: ImageDataset, tmp_path: Path
) -> None:
    save_scores(score_rows(classifier, data.rows[:3], ASKED), tmp_path / "scores.npz")
    with zipfile.ZipFile(tmp_path / "scores.npz") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for secret in ("patient", str(data.path.parent), "images/", ".png"):
        assert secret.encode() not in content
        assert secret.encode("utf-32-le") not in content


@pytest.mark.parametrize("damage", ["cut", "text", "short", "infinite", "label", "version", "info", "region"])
def test_a_damaged_file_of_scores_is_refused(damage: str, make_scores: MakeScores, tmp_path: Path) -> None:
    file = tmp_path / "scores.npz"
    save_scores(make_scores([[1], [0]], [[0.5], [0.1]]), file)
    stored = dict(np.load(file))
    about = json.loads(stored["about"].tobytes())
    if damage == "short":
        stored["line"] = stored["line"][:1]
    elif damage == "infinite":
        stored["0.local_positive"] = np.full((2, 1), np.inf)
    elif damage == "label":
        stored["labels"] = np.full((2, 1), 7)
    elif damage == "version":
        about["schema"] = 99
    elif damage == "info":
        del about["models"][0]["patch_size"]
    elif damage == "region":
        stored["0.region_index"] = np.zeros(2, np.int64)
    stored["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **stored)
    data = {"cut": content.getvalue()[:400], "text": b"scores"}.get(damage, content.getvalue())
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"scores\.npz is not a file of scores"):
        load_scores(file)
    with pytest.raises(UsageError, match="cannot be read"):
        load_scores(tmp_path / "gone.npz")


def test_only_scores_of_the_same_rows_can_be_joined(make_scores: MakeScores) -> None:
    labels, gap = [[1], [0]], np.array([[2.0], [-1.0]])
    scores = make_scores(labels, gap)
    both = scores.joined(make_scores(labels, -gap))
    assert both.probability(0.0) == pytest.approx(np.full((2, 1), 0.5))
    with pytest.raises(UsageError, match="patch_size"):
        scores.joined(make_scores(labels, gap, patch_size=32))
    with pytest.raises(UsageError, match="2 and 3 images"):
        scores.joined(make_scores([[1], [0], [0]], np.zeros((3, 1))))
    with pytest.raises(UsageError, match="their files differ"):
        scores.joined(replace(scores, image=np.array(["a", "b"])))
    with pytest.raises(UsageError, match="their order differs"):
        scores.joined(replace(scores, image=scores.image[::-1]))
    with pytest.raises(UsageError, match="findings of the models of an ensemble differ"):
        scores.joined(replace(scores, findings=("x",)))


def test_scores_need_no_torch(bundle_folder: Path) -> None:
    import subprocess

    code = (
        "import sys\nfrom lrclr.evaluation import evaluate, compare, load_scores, markdown\n"
        "from lrclr.engines import OnnxRuntimeEngine\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([bundles.PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
