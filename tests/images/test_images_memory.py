"""Memory of reading, for each format: at most what was reserved before the decoding."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lrclr import ReadLimits, read_image
from lrclr.errors import ImageLimitError
from lrclr.images import read_reduced

# Private: blocks of a few pixels, which real files do not reach.
from lrclr.images._display import Display, Rescale, Window, to_grey
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.images.conftest import MakeDicom

SPEC = PreprocessSpec.clip(224)
HEIGHT, WIDTH = 2900, 3000

# Reads each named file, and prints how much memory that took and how much was reserved.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import PIL.TiffImagePlugin
from lrclr import budget, read_image
from lrclr.images import ReducedImage, read_reduced
from lrclr.preprocessing import PreprocessSpec, preprocess

def status(name):
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) * 1024

def read(data, way):
    with budget.reading():
        return preprocess(ReducedImage.whole(read_image(data)) if way == "in full" else read_reduced(data, spec), spec)

spec = PreprocessSpec.clip(224)
reserve, reserved = budget.decoding.reserve, []
budget.decoding.reserve = lambda size: (reserved.append(size), reserve(size))
files = [(name, Path(name).read_bytes()) for name in sys.argv[1:]]
for name, data in files:
    # Modules that the first file of a kind imports do not count.
    read(Path(name).with_suffix(".small").read_bytes(), "in full")
    for way in ("in full", "reduced"):
        reserved.clear()
        before = status("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5")
        read(data, way)
        print(json.dumps([Path(name).stem, way, status("VmHWM:") - before, max(reserved)]), flush=True)
"""


def picture(height: int, width: int) -> NDArray[np.int64]:
    """A gradient, which is compressed quickly."""
    return np.add.outer(np.arange(height), np.arange(width))


def pillow(mode: str, height: int, width: int, file_format: str, **options: Any) -> bytes:
    levels = picture(height, width)
    if mode in ("I;16", "I", "F"):
        dtype, scale = {"I;16": (np.uint16, 7), "I": (np.int32, 7), "F": (np.float32, 1 / (height + width))}[mode]
        image = Image.fromarray((levels * scale).astype(dtype))
    else:
        grey = Image.fromarray((levels % 256).astype(np.uint8))
        image = grey.convert(mode.removesuffix("A")) if mode in ("LA", "RGBA") else grey.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(grey)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


FAST = {"compress_level": 1}
ONE_STRIP: dict[str, Any] = {"compression": "tiff_deflate", "tiffinfo": {278: 2**20}}
RASTER: dict[str, tuple[str, str, dict[str, Any]]] = {
    "grey": ("L", "PNG", FAST),
    "grey of 16 bits": ("I;16", "PNG", FAST),
    "black and white with transparency": ("1", "PNG", {"transparency": 0}),
    "grey with opacity": ("LA", "PNG", FAST),
    "colour": ("RGB", "PNG", FAST),
    "colour with a transparent one": ("RGB", "PNG", {**FAST, "transparency": (3, 3, 3)}),
    "colour with opacity": ("RGBA", "PNG", FAST),
    "palette with transparency": ("P", "PNG", {**FAST, "transparency": 3}),
    "JPEG": ("RGB", "JPEG", {}),
    "JPEG of several scans": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "JPEG of four inks in several scans": ("CMYK", "JPEG", {"progressive": True}),
    "TIFF of floats": ("F", "TIFF", {}),
    "TIFF of whole numbers": ("I", "TIFF", {}),
    "TIFF of four inks": ("CMYK", "TIFF", {}),
    "TIFF of one strip": ("RGBA", "TIFF", ONE_STRIP),
    "TIFF of one strip, turned": ("RGBA", "TIFF", {**ONE_STRIP, "tiffinfo": {**ONE_STRIP["tiffinfo"], 274: 6}}),
}


def dicoms(make: MakeDicom, height: int, width: int) -> dict[str, bytes]:
    levels = picture(height, width)
    grey = (levels % 256).astype(np.uint8)
    colour = np.stack([grey] * 3, -1)
    sixteen = (levels % 4096).astype(np.uint16)
    return {
        "DICOM": make(sixteen, BitsStored=12),
        "DICOM of 32 bits": make((levels * 100_000).astype(np.uint32)),
        "DICOM, deflated": make(sixteen, syntax="1.2.840.10008.1.2.1.99"),
        "DICOM in colour": make(colour),
        "DICOM in colour of 16 bits": make(colour.astype(np.uint16) * 257),
        "DICOM in YBR": make(colour, PhotometricInterpretation="YBR_FULL"),
    }


def used_and_reserved(folder: Path, files: dict[str, tuple[bytes, bytes]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Used and reserved bytes for each file and way of reading. Each file comes with a small file of its kind."""
    names = []
    for name, (large, small) in files.items():
        (folder / f"{name}.file").write_bytes(large)
        (folder / f"{name}.small").write_bytes(small)
        names.append(str(folder / f"{name}.file"))
    # malloc keeps memory of one file for the next one, which would hide it from the next figure.
    environment = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, *names]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {(name, way): (took, reserved) for name, way, took, reserved in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_raster_files_take_at_most_the_reserved_memory(tmp_path: Path) -> None:
    files = {
        name: (pillow(mode, HEIGHT, WIDTH, kind, **options), pillow(mode, 300, 300, kind, **options))
        for name, (mode, kind, options) in RASTER.items()
    }
    found = used_and_reserved(tmp_path, files)
    assert {key: pair for key, pair in found.items() if pair[0] > pair[1]} == {}
    # It was 28 bytes a pixel once.
    constant = 24 * 2**20
    for name in ("colour with opacity", "palette with transparency", "colour with a transparent one"):
        # A PNG file of this size is inflated at once: three copies of at most four bytes a pixel.
        assert found[name, "in full"][1] <= 13 * HEIGHT * WIDTH + constant
        assert found[name, "in full"][0] > 4 * HEIGHT * WIDTH, "nothing was measured"


def test_dicom_files_take_at_most_the_reserved_memory(make_dicom: MakeDicom, tmp_path: Path) -> None:
    large, small = dicoms(make_dicom, HEIGHT // 2, WIDTH), dicoms(make_dicom, 300, 300)
    found = used_and_reserved(tmp_path, {name: (large[name], small[name]) for name in large})
    # The data set of a deflated file has a separate budget.
    inflated = 2 * (HEIGHT // 2) * WIDTH * 9 // 4
    assert {key: pair for key, pair in found.items() if pair[0] > pair[1] + inflated * ("deflated" in key[0])} == {}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reading_in_strips_equals_reading_at_once(mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    kind = "TIFF" if mode in ("CMYK", "YCbCr", "I", "F") else "PNG"
    data = pillow(mode, 37, 53, kind, exif=exif)
    whole, reduced = read_image(data), read_reduced(data, PreprocessSpec.clip(8)).pixels
    for pixels in (1, 106, 500):
        monkeypatch.setattr("lrclr.images._raster.STRIP", pixels)
        np.testing.assert_array_equal(read_image(data), whole)
        np.testing.assert_array_equal(read_reduced(data, PreprocessSpec.clip(8)).pixels, reduced)


@pytest.mark.parametrize("voi", [None, Window(0.4, 0.3), Window(0.5, 0.2, "SIGMOID")])
@pytest.mark.parametrize("padding", [None, (0.9, 1.0)])
def test_processing_floats_in_blocks_equals_processing_at_once(
    voi: Window | None, padding: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.random.default_rng(0).random((41, 30))
    display = Display(Rescale(-2.0, 0.1), voi, padding)
    whole = to_grey(stored, display)
    monkeypatch.setattr("lrclr.images._display._BLOCK", 60)
    np.testing.assert_array_equal(to_grey(stored, display), whole)


def animation(frames: int) -> bytes:
    pictures = [Image.new("L", (40, 30), shade) for shade in range(frames)]
    stream = io.BytesIO()
    pictures[0].save(stream, "PNG", save_all=True, append_images=pictures[1:])
    return stream.getvalue()


def test_frames_before_the_requested_one_count_towards_the_limit() -> None:
    """Pillow decodes all of them to reach the requested one."""
    data = animation(5)
    limits = ReadLimits(max_pixels=3 * 30 * 40)
    assert read_image(data, frame=2, limits=limits)[0, 0] == 2
    with pytest.raises(ImageLimitError, match="more than the limit of 3600 pixels"):
        read_image(data, frame=3, limits=limits)
