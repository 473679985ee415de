"""Many files through one classifier: order, bad files among good ones, memory, and stopping early."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrclr import ReadLimits, ZeroShotClassifier, read_image
from lrclr.errors import FindingsError, ImageError, ImageLimitError, UsageError
from lrclr.images import ReducedImage, read_for_model
from lrclr.inference import predict_files
from lrclr.text import FindingSet
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def classifier(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(bundles.exported(tmp_path_factory.getbasetemp(), "fp32"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine files of several sizes, of which the third, fourth and last are bad."""
    folder = tmp_path_factory.mktemp("files")
    paths = [bundles.radiograph(folder / f"{n}.png", n, (60 + 7 * n, 90 - 5 * n)) for n in range(9)]
    for bad in (2, 3, 8):
        paths[bad].write_bytes(b"" if bad == 3 else b"no picture")
    return paths


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 12), workers=st.integers(1, 4))
def test_order_and_answers_do_not_depend_on_batches_and_workers(
    classifier: ZeroShotClassifier, files: list[Path], batch_size: int, workers: int
) -> None:
    results = list(predict_files(classifier, files, batch_size=batch_size, workers=workers, images=True))
    assert [result.path for result in results] == files
    assert [n for n, result in enumerate(results) if result.error is not None] == [2, 3, 8]
    for result in results:
        if result.error is not None:
            assert isinstance(result.error, ImageError)
            assert (result.prediction, result.image) == (None, None)
            continue
        image = read_image(result.path)
        assert result.image is not None
        assert result.prediction is not None
        assert np.array_equal(result.image, image)
        (alone,) = classifier.predict([image])
        assert (result.prediction.height, result.prediction.width) == image.shape
        for got, expected in zip(result.prediction.findings, alone.findings, strict=True):
            assert got.probability == pytest.approx(expected.probability, abs=1e-6)


def test_exact_reading_and_the_default(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    files = bundles.enlarged(tmp_path)
    usual, drawn, exact, both = (
        list(predict_files(classifier, files, exact=exact, images=images))
        for exact, images in ((False, False), (False, True), (True, False), (True, True))
    )
    whole = classifier.predict([read_image(path) for path in files])
    for first, second in ((usual, drawn), (exact, both)):
        assert [result.prediction for result in first] == [result.prediction for result in second]
        assert all(result.image is None for result in first)
        for result in second:
            np.testing.assert_array_equal(result.image, read_image(result.path))
    assert [result.prediction for result in exact] == whole
    assert [result.prediction for result in usual] != whole
    for result, expected in zip(usual, whole, strict=True):
        assert result.prediction is not None
        assert (result.prediction.height, result.prediction.width) == (expected.height, expected.width)
        for got, finding in zip(result.prediction.findings, expected.findings, strict=True):
            assert got.probability == pytest.approx(finding.probability, abs=2e-3)


def test_only_bad_files_run_no_engine(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    results = list(predict_files(classifier, [files[2], files[3]]))
    assert [str(result.error) for result in results] != ["", ""]
    assert list(predict_files(classifier, [])) == []


def test_limits_and_frames_are_passed_to_the_reader(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    (small,) = predict_files(classifier, files[:1], limits=ReadLimits(max_pixels=100))
    assert isinstance(small.error, ImageLimitError)
    (frame,) = predict_files(classifier, files[:1], frame=3)
    assert isinstance(frame.error, ImageError)


def test_errors_of_the_call_are_not_attributed_to_a_file(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        list(predict_files(classifier, files, batch_size=0))
    with pytest.raises(UsageError, match="alpha"):
        list(predict_files(classifier, files, alpha=2.0))
    too_long = FindingSet.from_names([" ".join(["opacity"] * 20)], positive=(" ".join(["{}"] * 5),))
    with pytest.raises(FindingsError, match="token"):
        list(predict_files(classifier, files, findings=too_long))


def test_files_are_decoded_on_demand(
    classifier: ZeroShotClassifier, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that stops after the first answer has not read a thousand files."""
    read: list[Path] = []

    def record(path: Path, *recipe: Any, **options: Any) -> ReducedImage:
        read.append(path)
        return read_for_model(path, *recipe, **options)

    monkeypatch.setattr("lrclr.inference._decoding.read_for_model", record)
    results = predict_files(classifier, [files[0]] * 1000, batch_size=2, workers=2)
    next(results)
    assert isinstance(results, Generator)
    results.close()
    assert 2 <= len(read) <= 6
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("lrclr-decode")]
    for thread in threading.enumerate():
        if thread.name in alive:
            thread.join(10)
            assert not thread.is_alive()
