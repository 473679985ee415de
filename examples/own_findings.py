"""Ask for findings of your own, with prompts of your own, and compare two wordings on the same image.

    python -m examples.own_findings triton_repo [IMAGE]

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lrclr import Finding, FindingSet, ZeroShotClassifier
from lrclr.samples import sample_paths

# Findings need names that differ, so that results can be told apart.
FINDINGS = FindingSet(
    (
        Finding("Effusion, bare name", positive=("pleural effusion",), negative=("no pleural effusion",)),
        Finding(
            "Effusion, as in reports",
            positive=("There is a moderate pleural effusion on the right.", "Bilateral pleural effusions."),
            negative=("There is no pleural effusion.", "The costophrenic angles are sharp."),
        ),
        Finding("Large heart", positive=("The heart is moderately enlarged.",), negative=("Heart size is normal.",)),
    )
)


def main() -> None:
    """Answer for one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path, nargs="?", default=sample_paths()[2])
    options = parser.parse_args()
    classifier = ZeroShotClassifier.from_bundle(options.bundle)
    (answer,) = classifier.predict([options.image], findings=FINDINGS)
    for finding in answer.findings:
        strongest = max(range(len(answer.regions)), key=lambda region: finding.region_attention[region])
        left, top, right, bottom = (round(edge) for edge in answer.regions[strongest].box)
        print(f"{finding.name:24} {finding.probability:6.1%}  most attention: {left},{top} to {right},{bottom}")


if __name__ == "__main__":
    main()
