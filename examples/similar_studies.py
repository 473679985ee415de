"""Find the ten images of a folder that are most similar to one image, or that fit a text best.

    python -m examples.similar_studies triton_repo FOLDER --image study.dcm
    python -m examples.similar_studies triton_repo FOLDER --text "Blunting of the left costophrenic angle." [--top 10]

The embeddings of the folder are written to `embeddings.parquet` once and read from then on. With NumPy, every image is
compared: this is exact, and fast up to some million images. `--usearch` builds a vector index instead, which also
searches collections that do not fit into memory: `pip install usearch`. Similar embeddings do not mean equal findings.
Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lrclr import ZeroShotClassifier
from lrclr.embedding import write_image_embeddings
from lrclr.file_names import name_of
from lrclr.images import find_images

Floats = np.ndarray[Any, np.dtype[np.float32]]


def embeddings_of(classifier: ZeroShotClassifier, folder: Path, file: Path) -> tuple[list[str], Floats]:
    """Names of the folder's images, and their embeddings ``[N, D]``; of those that could be read."""
    if not file.exists():
        summary = write_image_embeddings(classifier, find_images([folder]).files, file)
        print(f"{file}: {summary.rows - summary.failed} of {summary.rows} images embedded")
    if pq.read_schema(file).metadata[b"lrclr.bundle"] != classifier.spec.sha256.encode():
        raise SystemExit(f"{file} holds embeddings of another bundle, which cannot be compared: remove it")
    table = pq.read_table(file)
    if set(table["file"].to_pylist()) != {name_of(path) for path in find_images([folder]).files}:
        raise SystemExit(f"{file} holds embeddings of other images: remove it, or choose another file with -o")
    table = table.filter(pc.field("status") == "embedded")
    return table["file"].to_pylist(), np.stack(table["image_embedding"].to_numpy()).astype(np.float32)


def nearest(embeddings: Floats, query: Floats, top: int) -> list[tuple[int, float]]:
    """Rows with the greatest cosine to a query ``[D]``, and the cosines. All rows have unit length."""
    cosines = embeddings @ query
    return [(int(row), float(cosines[row])) for row in np.argsort(-cosines, kind="stable")[:top]]


def nearest_by_index(embeddings: Floats, query: Floats, top: int) -> list[tuple[int, float]]:
    """The same by an approximate index, which can be saved with ``index.save(path)`` and be opened from disk."""
    from usearch.index import Index

    index = Index(ndim=embeddings.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(embeddings)), embeddings)
    found = index.search(query, top)
    return [(int(row), 1.0 - float(distance)) for row, distance in zip(found.keys, found.distances, strict=True)]


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--image", type=Path)
    query.add_argument("--text")
    parser.add_argument("-o", "--embeddings", type=Path, default=Path("embeddings.parquet"))
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--usearch", action="store_true", help="search with an index of usearch")
    options = parser.parse_args()
    classifier = ZeroShotClassifier.from_bundle(options.bundle)
    names, embeddings = embeddings_of(classifier, options.folder, options.embeddings)
    asked = classifier.embed_texts([options.text]) if options.text else classifier.embed_images([options.image])
    search = nearest_by_index if options.usearch else nearest
    for row, cosine in search(embeddings, asked[0], options.top):
        print(f"{cosine:7.4f}  {names[row]}")


if __name__ == "__main__":
    main()
