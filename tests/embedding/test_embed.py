"""`lrclr embed` writes one unit-length row for each image or text, equal to the classifier's embedding."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrclr import LrclrError, ZeroShotClassifier
from lrclr.cli import main

# Private: the size of row groups, which tests reduce.
from lrclr.embedding import EmbedOptions, _write, write_image_embeddings, write_text_embeddings
from lrclr.errors import NonFiniteError, UsageError
from lrclr.samples import sample_paths
from tests import bundles

SAMPLES = sample_paths()


@pytest.fixture(scope="module")
def classifier(fp32_bundle: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(fp32_bundle)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four radiographs, a file that gives a remark, and two files without an image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in SAMPLES:
        shutil.copy(path, folder)
    bundles.odd_radiograph(folder / "odd.dcm")
    (folder / "text.png").write_bytes(b"Doe^Jane 1970-01-01")
    (folder / "gone.dcm").symlink_to(folder / "nowhere")
    return folder


def rows(file: Path) -> dict[str, dict[str, Any]]:
    return {row.get("file") or row["text"]: row for row in pq.read_table(file).to_pylist()}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_equals_the_classifiers_embedding(
    folder: Path, tmp_path: Path, fp32_bundle: Path, classifier: ZeroShotClassifier, dtype: str
) -> None:
    output = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-b", str(fp32_bundle), "-o", str(output), "--regions", "--dtype", dtype]) == 1
    found = rows(output)
    assert sorted(found) == sorted(str(path) for path in folder.iterdir())
    paths = [Path(name) for name, row in found.items() if row["status"] == "embedded"]
    expected = classifier.embed_regions(paths)
    assert len(paths) == len(SAMPLES) + 1
    limit = {"float32": 1e-6, "float16": 1e-3}[dtype]
    for place, path in enumerate(paths):
        row = found[str(path)]
        np.testing.assert_allclose(row["image_embedding"], expected.image[place], atol=limit)
        np.testing.assert_allclose(row["region_embedding"], expected.region[place], atol=limit)
        assert row["region_index"] == expected.region_index[place].tolist()
        assert (row["sha256"], row["bytes"]) == (bundles.sha256_of(path), path.stat().st_size)
        assert (row["error"], row["reason"]) == (None, None)
    for length in (np.linalg.norm(expected.image, axis=-1), np.linalg.norm(expected.region, axis=-1)):
        np.testing.assert_allclose(length, 1, atol=1e-5)
    assert found[str(folder / "odd.dcm")]["remarks"] == list(bundles.REMARKS)
    schema = pq.read_schema(output)
    assert schema.field("image_embedding").type.value_type == {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata["lrclr.bundle"] == classifier.spec.sha256
    assert metadata["lrclr.checkpoint"] == classifier.spec.checkpoint_sha256
    assert (metadata["lrclr.model"], metadata["lrclr.dtype"]) == ("lrclr", dtype)


def test_a_bad_image_has_the_same_row_as_in_score(
    folder: Path, tmp_path: Path, fp32_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["embed", "-o", "e.parquet"], ["score", "-o", "scores", "--embeddings"]):
        command[2] = str(tmp_path / command[2])
        assert main([*command, str(folder), "-b", str(fp32_bundle)]) == 1
    embedded = {Path(name).name: row for name, row in rows(tmp_path / "e.parquet").items()}
    scored = {row["file"]: row for row in pq.read_table(tmp_path / "scores").to_pylist()}
    assert sorted(embedded) == sorted(scored)
    for name, row in embedded.items():
        for column in ("sha256", "bytes", "error", "reason", "height", "width", "remarks"):
            assert row[column] == scored[name][column], (name, column)
        assert (
            (row["image_embedding"] is None) == (scored[name]["image_embedding"] is None) == (row["error"] is not None)
        )
        if row["error"] is None:
            np.testing.assert_allclose(row["image_embedding"], scored[name]["image_embedding"], atol=1e-6)
    printed = capsys.readouterr()
    assert "error: 2 of 7 images have no embedding: their rows give the reasons" in printed.err
    assert not any(word in printed.err + printed.out for word in ("Doe", "1970"))


def test_texts_are_embedded(tmp_path: Path, fp32_bundle: Path, classifier: ZeroShotClassifier) -> None:
    texts = tmp_path / "texts.txt"
    lines = ("\ufeffpleural effusion", "", "  no pleural effusion ", "fluid " * 200, "", "")
    texts.write_text("\n".join(lines), encoding="utf-8")
    output = tmp_path / "t.parquet"
    assert main(["embed", "--texts", str(texts), "-b", str(fp32_bundle), "-o", str(output)]) == 1
    table = pq.read_table(output).to_pylist()
    expected = classifier.embed_texts(["pleural effusion", "no pleural effusion"])
    # The number of a row is that of its line, so that an empty line has a row, too. Those at the end have none.
    assert [row["text"] for row in table] == ["pleural effusion", "", "no pleural effusion", ("fluid " * 200).strip()]
    np.testing.assert_allclose([table[place]["text_embedding"] for place in (0, 2)], expected, atol=1e-6)
    for place, reason in ((1, "the text is empty"), (3, "202 tokens")):
        row = table[place]
        assert (row["status"], row["error"], row["text_embedding"]) == ("failed", "FindingsError", None)
        assert reason in row["reason"]


def test_a_checkpoint_gives_the_same_embeddings_as_its_bundle(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, fp32_bundle: Path
) -> None:
    folder = bundles.checkpoint_folder(tmp_path_factory.getbasetemp())
    embeddings = []
    for number, model in enumerate((folder, fp32_bundle)):
        output = tmp_path / f"{number}.parquet"
        assert main(["embed", str(SAMPLES[0]), "-b", str(model), "-o", str(output)]) == 0
        embeddings.append(pq.read_table(output)["image_embedding"][0].as_py())
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-5)
    assert pq.read_schema(tmp_path / "0.parquet").metadata[b"lrclr.bundle"] == b""


def test_rows_are_written_group_by_group(
    tmp_path: Path, classifier: ZeroShotClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More texts are read only while the current group is not full."""
    monkeypatch.setattr(_write, "_GROUP_ROWS", 10)
    texts = [f"finding {number}" for number in range(47)]
    summary = write_text_embeddings(classifier, texts, tmp_path / "a.parquet", EmbedOptions(batch_size=4))
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        assert [file.metadata.row_group(each).num_rows for each in range(5)] == [10, 10, 10, 10, 7]
        assert file.read()["text"].to_pylist() == texts
    assert (summary.rows, summary.failed, summary.dimension) == (47, 0, 32)
    monkeypatch.setattr(_write, "_GROUP_BYTES", 2 * 4 * 32)
    write_image_embeddings(classifier, [*SAMPLES], tmp_path / "b.parquet")
    with pq.ParquetFile(tmp_path / "b.parquet") as file:
        assert file.metadata.num_row_groups == len(SAMPLES) // 2


def test_an_image_with_nan_does_not_affect_the_others(
    tmp_path: Path, classifier: ZeroShotClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = classifier.embed_pixels
    marked = classifier.embed_images([SAMPLES[1]])

    def spoiled(pixel_values: Any) -> Any:
        outputs = whole(pixel_values)
        if (np.abs(outputs.image - marked).max(axis=1) < 1e-6).any():
            raise NonFiniteError("image_encoder gave NaN")
        return outputs

    monkeypatch.setattr(classifier, "embed_pixels", spoiled)
    summary = write_image_embeddings(classifier, [*SAMPLES], tmp_path / "e.parquet")
    table = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [row["error"] for row in table] == [None, "NonFiniteError", None, None]
    assert summary.failed == 1


def test_the_file_is_written_completely_or_not_at_all(tmp_path: Path, classifier: ZeroShotClassifier) -> None:
    output = tmp_path / "e.parquet"
    write_image_embeddings(classifier, SAMPLES[:1], output)
    before = output.read_bytes()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image_embeddings(classifier, SAMPLES, output, on_row=stop)
    with bundles.no_large_files(1000), pytest.raises(LrclrError, match=r"e\.parquet could not be written: File too la"):
        write_image_embeddings(classifier, SAMPLES, output, EmbedOptions(regions=True))
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_a_wrong_call_gives_exit_code_2(tmp_path: Path, fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, image, output = tmp_path / "t.txt", str(SAMPLES[0]), str(tmp_path / "e.parquet")
    texts.write_text("edema\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9d\xe8me\n")
    (tmp_path / "blank.txt").write_text("\n \n")
    for arguments, message in (
        (["-o", output], "give either images or --texts"),
        ([image, "--texts", str(texts), "-o", output], "give either images or --texts"),
        ([image, "-o", output, "--dtype", "float64"], "unknown dtype 'float64'. Choose float32 or float16."),
        ([image, "-o", str(tmp_path)], "is a folder"),
        (["--texts", str(texts), "--regions", "-o", output], "options for images"),
        (["--texts", str(tmp_path / "latin.txt"), "-o", output], "is not UTF-8 text"),
        (["--texts", str(tmp_path / "blank.txt"), "-o", output], "holds no text"),
        (["--texts", str(tmp_path / "none.txt"), "-o", output], "cannot be read: No such file"),
        ([image, "-o", output, "--batch-size", "0"], "at least one row"),
    ):
        assert main(["embed", *arguments, "-b", str(fp32_bundle)]) == 2, arguments
        assert message in capsys.readouterr().err
    assert main(["embed", image, "-o", str(tmp_path / "no" / "e.parquet"), "-b", str(fp32_bundle)]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_an_input_file_is_not_replaced(tmp_path: Path, fp32_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, texts, link = tmp_path / "a.png", tmp_path / "t.txt", tmp_path / "link"
    image.write_bytes(SAMPLES[0].read_bytes())
    texts.write_text("edema\n")
    link.symlink_to(image)
    for arguments in ((image, "-o", image), (tmp_path, "-o", link), ("--texts", texts, "-o", texts)):
        assert main(["embed", *map(str, arguments), "-b", str(fp32_bundle)]) == 2
        assert "is one of the files to read" in capsys.readouterr().err
    assert image.read_bytes() == SAMPLES[0].read_bytes()
    assert texts.read_text() == "edema\n"


def test_a_run_without_input_is_refused(tmp_path: Path, classifier: ZeroShotClassifier) -> None:
    with pytest.raises(UsageError, match="no image to embed"):
        write_image_embeddings(classifier, [], tmp_path / "e.parquet")
    with pytest.raises(UsageError, match="empty list of images"):
        classifier.embed_regions([])


def test_one_text_or_one_image_instead_of_a_list_is_refused(classifier: ZeroShotClassifier, tmp_path: Path) -> None:
    target = str(tmp_path / "out.parquet")
    with pytest.raises(UsageError, match="one text was given instead of a list"):
        write_text_embeddings(classifier, "pleural effusion", target)
    with pytest.raises(UsageError, match="is not a str"):
        write_text_embeddings(classifier, [1], target)  # type: ignore[list-item]
    with pytest.raises(UsageError, match="one image was given instead of a list"):
        write_image_embeddings(classifier, str(SAMPLES[0]), target)
    assert not list(tmp_path.iterdir())
    assert write_image_embeddings(classifier, [str(SAMPLES[0])], target).rows == 1
