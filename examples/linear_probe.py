"""Train a linear probe on embeddings: a logistic regression that predicts a label of your own, with scikit-learn.

    lrclr embed FOLDER -o embeddings.parquet
    python -m examples.linear_probe embeddings.parquet labels.csv

`labels.csv` has the columns `file`, as in `embeddings.parquet`, `label` (0 or 1) and `patient`. All images of a patient
are in the same fold: a probe that has seen a patient recognises that patient, and its AUROC would be too high. The
network stays as it is; only one weight for each number of the embedding is trained. Research use only. Not a medical
device.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

FOLDS = 5


def read(embeddings: Path, labels: Path) -> tuple[Any, Any, Any]:
    """Embeddings ``[N, D]``, labels ``[N]`` and patients ``[N]`` of the images that have both."""
    table = pq.read_table(embeddings, columns=["file", "image_embedding"], filters=[("status", "=", "embedded")])
    known = dict(zip(table["file"].to_pylist(), table["image_embedding"].to_numpy(), strict=True))
    with labels.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"] in known]
    if not rows:
        raise SystemExit(f"no image of {labels} is in {embeddings}")
    return (
        np.stack([known[row["file"]] for row in rows]).astype(np.float32),
        np.array([int(row["label"]) for row in rows]),
        np.array([row["patient"] for row in rows]),
    )


def main() -> None:
    """Train a probe for each fold, and print how well it orders the images that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("labels", type=Path)
    options = parser.parse_args()
    features, labels, patients = read(options.embeddings, options.labels)
    print(f"{len(labels)} images of {len(set(patients))} patients, {labels.sum()} positive")
    scores = np.empty(len(labels))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(features, labels, patients):
        # Embeddings of unit length differ little: scikit-learn's default, C=1, would keep the weights too small.
        probe = LogisticRegression(C=100.0, max_iter=1000).fit(features[train], labels[train])
        scores[test] = probe.predict_proba(features[test])[:, 1]
    print(f"AUROC of {FOLDS}-fold cross-validation: {roc_auc_score(labels, scores):.3f}")


if __name__ == "__main__":
    main()
