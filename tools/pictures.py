"""Draw the picture of the documentation that comes from a real run: ``python -m tools.pictures``.

It is in the README and on the site's first page, and shows what the default checkpoint answers.
"""

from __future__ import annotations

from pathlib import Path

from lrclr import ZeroShotClassifier, read_image
from lrclr.inference import save_heatmap
from lrclr.samples import sample_paths

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
SHOWN = ("Pleural Effusion", "Cardiomegaly")


def main() -> None:
    """Write `docs/assets/heatmap.png`: a sample radiograph, a finding that it shows and one that it does not show."""
    (sample,) = (path for path in sample_paths() if path.stem == "effusion")
    image = read_image(sample)
    (answer,) = ZeroShotClassifier.from_checkpoint("default").predict([image])
    save_heatmap(
        ASSETS / "heatmap.png",
        image,
        answer,
        findings=SHOWN,
        panel_width=360,
        title="A synthetic radiograph with a pleural effusion",
    )


if __name__ == "__main__":
    main()
