"""Score every image of a folder into Parquet files, and list the images with the most probable finding.

    python -m examples.score_folder triton_repo FOLDER -o scores [--finding "Pleural Effusion"] [--top 10]

Stopped and started again, it goes on where it was. Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.dataset

from lrclr import Bundle
from lrclr.archive import ScoreOptions, score


def probabilities(scores: Path, finding: str | None) -> list[tuple[float, str, str]]:
    """Probability, finding and file of each image, highest first; of one finding, or of each image's most probable."""
    files = sorted(map(str, scores.glob("part-*.parquet")))
    found = []
    table = pyarrow.dataset.dataset(files).to_table(columns=["file", "status", "findings", "probability"])
    for row in table.to_pylist():
        if row["status"] == "scored":
            of = dict(zip(row["findings"], row["probability"], strict=True))
            name = finding or max(of, key=lambda each: of[each])
            found.append((of[name], name, row["file"]))
    return sorted(found, reverse=True)


def main() -> None:
    """Score a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("scores"))
    parser.add_argument("--finding")
    parser.add_argument("--top", type=int, default=10)
    options = parser.parse_args()
    known = Bundle(options.bundle).findings.names
    if options.finding is not None and options.finding not in known:
        parser.error(f"--finding is one of {', '.join(known)}")
    summary = score(options.folder, options.output, ScoreOptions(options.bundle))
    print(f"{summary.images} images: {summary.scored} scored now, {summary.kept} before, {summary.failed} failed")
    for probability, name, file in probabilities(options.output, options.finding)[: options.top]:
        print(f"{probability:6.1%}  {name:28} {file}")


if __name__ == "__main__":
    main()
