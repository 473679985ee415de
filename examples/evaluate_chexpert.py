"""Evaluate a bundle on a folder of CheXpert's layout.

    python -m examples.evaluate_chexpert triton_repo [CheXpert-v1.0-small] [-o report]

The folder holds `valid.csv` and the images that it names, as CheXpert is distributed. Without one, a folder of that
layout is made of the synthetic samples. Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from pathlib import Path

from lrclr.cli import main as lrclr
from lrclr.samples import sample_paths

FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
SAMPLES = {"effusion": "Pleural Effusion", "cardiomegaly": "Cardiomegaly", "consolidation": "Consolidation"}


def write_samples(folder: Path) -> None:
    """Make a folder of CheXpert's layout: one patient for each sample."""
    rows = []
    for number, sample in enumerate(sample_paths(), 1):
        name = f"{folder.name}/valid/patient{number:05}/study1/view1_frontal{sample.suffix}"
        target = folder.parent / name
        target.parent.mkdir(parents=True)
        shutil.copy(sample, target)
        shown = SAMPLES.get(sample.stem, "No Finding")
        labels = {finding: "1.0" if finding == shown else "0.0" for finding in FINDINGS}
        about = {"Path": name, "Sex": "Unknown", "Age": "50", "Frontal/Lateral": "Frontal", "AP/PA": "PA"}
        rows.append(about | labels)
    with (folder / "valid.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    """Convert the folder to a dataset and evaluate the bundle on it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("chexpert", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path("report"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = options.chexpert or Path(temporary) / "CheXpert-v1.0-small"
        if options.chexpert is None:
            write_samples(source)
        dataset = str(Path(temporary) / "chexpert.csv")
        # The same two commands as on the command line; each returns an exit code.
        return lrclr(["dataset", "chexpert", str(source), "-o", dataset]) or lrclr(
            ["evaluate", str(options.bundle), dataset, "-o", str(options.output), "--split", "validation"]
        )


if __name__ == "__main__":
    sys.exit(main())
