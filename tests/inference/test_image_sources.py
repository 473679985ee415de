"""The Python API reads images as `lrclr predict` does, from any source. Embeddings."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from lrclr import Finding, FindingSet, ZeroShotClassifier, read_image
from lrclr.cli import main
from lrclr.errors import FindingsError, ImageError, UsageError
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.inference import ImageSource


@pytest.fixture(scope="module")
def bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(bundle)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PNG, DICOM, and JPEG 2000 that is decoded at a lower resolution: more than one batch."""
    return [*sample_paths("png"), *sample_paths("dicom"), *bundles.enlarged(tmp_path_factory.mktemp("large"))]


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_answers_equal_those_of_the_command_bit_for_bit(
    exact: bool, classifier: ZeroShotClassifier, bundle: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(files) > 8
    assert main(["predict", *map(str, files), "-b", str(bundle), "--json", *["--exact"] * exact]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for sources in (files, [str(file) for file in files], [file.read_bytes() for file in files]):
        answers = [
            {"file": str(file), "exact": exact, **json.loads(json.dumps(answer.to_dict()))}
            for file, answer in zip(files, classifier.predict(sources, exact=exact), strict=True)
        ]
        assert answers == printed


def test_arrays_pillow_images_and_file_objects_are_read(
    classifier: ZeroShotClassifier, files: list[Path], tmp_path: Path
) -> None:
    png = files[0]
    (expected,) = classifier.predict([png])
    pixels = read_image(png)
    wide = pixels.astype(np.uint16) * 257
    with Image.open(png) as picture:
        sources: list[ImageSource] = [io.BytesIO(png.read_bytes()), memoryview(png.read_bytes()), pixels, wide, picture]
        sources += [pixels.astype(np.float64) / 255, np.stack([pixels] * 3, axis=2)]
        for source in sources:
            assert classifier.predict([source]) == [expected]
    tiff = tmp_path / "two.tif"
    frames = [Image.fromarray(read_image(file)) for file in files[:2]]
    frames[0].save(tiff, save_all=True, append_images=frames[1:])
    assert classifier.predict([tiff], frame=1) == classifier.predict([files[1]])


def test_an_error_names_the_image_by_its_position_and_no_path(
    classifier: ZeroShotClassifier, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "doe_jane.png").write_text("no image")
    with pytest.raises(ImageError, match=r"^image 10 of 11: lrclr cannot read the file as an image") as caught:
        classifier.predict([*files[:9], tmp_path / "doe_jane.png", b""])
    assert "doe" not in str(caught.value)
    with pytest.raises(ImageError, match=r"^lrclr cannot read the file"):
        classifier.embed_images([b"no image"])


def test_a_single_image_instead_of_a_list_is_refused(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    pixels = read_image(files[0])
    for image_ in (files[0], str(files[0]), b"x", pixels, np.stack([pixels] * 3, axis=2), io.BytesIO()):
        with pytest.raises(UsageError, match="one image was given instead of a list"):
            classifier.predict(image_)  # type: ignore[arg-type]


def test_an_array_that_may_be_one_picture_or_several_is_refused(
    classifier: ZeroShotClassifier, files: list[Path]
) -> None:
    channels_first = np.stack([read_image(files[0])] * 3)
    with pytest.raises(UsageError, match=r"may be one picture, with its channels first, or several"):
        classifier.predict(channels_first)  # type: ignore[arg-type]
    assert len(classifier.predict([channels_first.transpose(1, 2, 0)])) == 1
    assert len(classifier.predict(list(channels_first))) == 3


def test_a_generator_of_images_is_accepted(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    assert classifier.predict(path for path in files) == classifier.predict(files)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"^image 2: lrclr cannot read the file as an image"):
        classifier.predict(each for each in (files[0], b"no image"))  # type: ignore[arg-type]


def test_embeddings_have_unit_length_and_give_the_scores(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    texts = ["pleural effusion", "no pleural effusion", "pleural effusion"]
    images, words = classifier.embed_images(files), classifier.embed_texts(texts)
    assert images.dtype == words.dtype == np.float32
    assert images.shape == (len(files), words.shape[1])
    for rows in (images, words):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(words[0], words[2])
    finding = Finding("effusion", ("pleural effusion",), ("no pleural effusion",))
    for cosines, answer in zip(
        images @ words.T, classifier.predict(files, findings=FindingSet((finding,))), strict=True
    ):
        result = answer.finding("effusion")
        assert cosines[:2] == pytest.approx([result.global_positive, result.global_negative], abs=1e-6)
    words[:] = 0
    assert classifier.embed_texts(texts)[0].any()


def test_invalid_embedding_requests_are_refused(classifier: ZeroShotClassifier) -> None:
    with pytest.raises(UsageError, match="empty list of images"):
        classifier.embed_images([])
    with pytest.raises(FindingsError, match="empty list of texts"):
        classifier.embed_texts([])
    with pytest.raises(FindingsError, match="a list of texts, not one text"):
        classifier.embed_texts("edema")
    with pytest.raises(FindingsError, match="tokens"):
        classifier.embed_texts(["edema " * 80])


def test_the_error_for_an_unknown_finding_lists_the_findings(classifier: ZeroShotClassifier, files: list[Path]) -> None:
    (answer,) = classifier.predict(files[:1])
    assert answer.finding("Edema").name == "Edema"
    with pytest.raises(FindingsError, match=r"no finding 'Foo'\. The findings are: Atelectasis, Cardiomegaly, .*Supp"):
        answer.finding("Foo")
    with pytest.raises(FindingsError, match="Did you mean 'Pleural Effusion'"):
        answer.finding("pleural_effusion")
