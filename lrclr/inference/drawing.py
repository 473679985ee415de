"""Text, tints, labels and bars for :mod:`lrclr.inference._heatmap`. NumPy and Pillow only."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom lie outside

# Vermilion and sky blue stay apart in every common kind of colour blindness, and both show on black lungs.
ATTENTION: Final[Colour] = (245, 60, 38)
IMPORTANCE: Final[Colour] = (70, 170, 245)
BACKGROUND: Final[Colour] = (17, 19, 23)
TEXT: Final[Colour] = (238, 240, 244)
DIM: Final[Colour] = (170, 177, 188)
_TRACK: Final[Colour] = (44, 49, 57)
_FILL: Final[Colour] = (150, 158, 170)
_TALLEST: Final = 1.25  # of a picture, in panel widths
_OPACITY: Final = 0.55  # of the strongest tint: bone and vessels must show through
_LONGEST: Final = 500  # characters of a text that are looked at
_PLAIN: Final = str.maketrans({"\u00d7": "x", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2010": "-"})


@dataclass(frozen=True)
class Style:
    """Sizes in pixels, all from the width of a panel."""

    panel_width: int

    def scaled(self, size: float, least: int = 1) -> int:
        """Scale a size that is meant for a panel of 480 pixels to this width."""
        return max(least, round(size * self.panel_width / 480))

    @property
    def title(self) -> int:
        """Font size of the header."""
        return self.scaled(24, 14)

    @property
    def caption(self) -> int:
        """Font size of a panel's name."""
        return self.scaled(19, 12)

    @property
    def small(self) -> int:
        """Font size of everything else."""
        return self.scaled(14, 10)

    @property
    def gap(self) -> int:
        """Space between panels."""
        return self.scaled(20, 8)

    @property
    def line(self) -> int:
        """Width of an outline."""
        return self.scaled(2)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def _has_glyph(character: str) -> bool:
    font = _font(16)
    return bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))


def _printable(text: str) -> str:
    """`text` on one line, with an accent dropped where the font lacks the accented letter."""
    one_line = " ".join("".join(c if c.isprintable() else " " for c in text[:_LONGEST].translate(_PLAIN)).split())
    return "".join(c if c.isascii() or _has_glyph(c) else _plain(c) for c in unicodedata.normalize("NFC", one_line))


def _plain(character: str) -> str:
    """Return the base letters of a character if the font has them, else the character, which is drawn as a box."""
    letters = [c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)]
    return "".join(letters) if all(map(_has_glyph, letters)) else character


def _shortened(text: str, width: float, size: int) -> str:
    """`text` with its end replaced by "…" if it is wider than `width`."""
    text, font = _printable(text), _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrapped(text: str, width: float, size: int) -> Iterable[str]:
    font, line = _font(size), ""
    for word in _printable(text).split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield _shortened(line, width, size)
            longer = word
        line = longer
    if line:
        yield _shortened(line, width, size)


def stack(images: Sequence[Image.Image], gap: int, *, across: bool = False) -> Image.Image:
    """Images below each other, or side by side, from the upper left corner."""
    along, beside = (0, 1) if across else (1, 0)
    size = [0, 0]
    size[along] = sum(image.size[along] for image in images) + gap * (len(images) - 1)
    size[beside] = max(image.size[beside] for image in images)
    page = Image.new("RGB", (size[0], size[1]), BACKGROUND)
    corner = [0, 0]
    for image in images:
        page.paste(image, (corner[0], corner[1]))
        corner[along] += image.size[along] + gap
    return page


def text_block(text: str, width: int, size: int, colour: Colour = TEXT, *, wrap: bool = True) -> Image.Image:
    """Text of font size `size`, wrapped to `width` pixels, or cut to one line of them."""
    lines = list(_wrapped(text, width, size)) if wrap else [_shortened(text, width, size)]
    step = round(size * 1.35)
    block = Image.new("RGB", (width, max(1, step * len(lines))), BACKGROUND)
    draw = ImageDraw.Draw(block)
    for row, line in enumerate(lines):
        draw.text((0, row * step + round(size * 0.1)), line, colour, _font(size), anchor="la")
    return block


def fitted(image: NDArray[np.uint8], style: Style) -> Image.Image:
    """A radiograph as wide as a panel, or narrower if it would be too tall."""
    height, width = image.shape[:2]
    scale = min(style.panel_width / width, _TALLEST * style.panel_width / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGB")


def caption(name: str, value: str, note: str, style: Style, colour: Colour = TEXT) -> Image.Image:
    """Draw what is above a panel: a name, a value at the right, and a small line below."""
    width, size = style.panel_width, style.caption
    head = Image.new("RGB", (width, round(size * 1.35)), BACKGROUND)
    room = width - (round(_font(size).getlength(value)) + style.gap if value else 0)
    head.paste(text_block(name, room, size, colour, wrap=False))
    ImageDraw.Draw(head).text((width, round(size * 0.1)), value, colour, _font(size), anchor="ra")
    return stack([head, text_block(note, width, style.small, DIM, wrap=False)], style.scaled(2))


def panel(head: Image.Image, picture: Image.Image, style: Style) -> Image.Image:
    """A picture under its caption, in the middle of the panel."""
    middle = Image.new("RGB", (style.panel_width, picture.height), BACKGROUND)
    middle.paste(picture, ((style.panel_width - picture.width) // 2, 0))
    return stack([head, middle], style.scaled(8, 3))


def tint(picture: Image.Image, box: Box, colour: Colour, share: float, line: int, presence: float = 1.0) -> None:
    """Lay a translucent colour over a box, with an outline inside it.

    Args:
        picture: changed in place.
        box: within the picture, not empty.
        colour: colour of tint and outline.
        share: strength of both, in [0, 1]. An outline is visible at 0, too.
        line: width of the outline; at most a sixth of the box is used.
        presence: factor on the strength of both, in [0, 1].
    """
    part = picture.crop(box)
    full = Image.new("RGB", part.size, colour)
    width = max(1, min(line, min(part.size) // 6))
    tinted = Image.blend(part, full, presence * (0.5 + 0.5 * share))
    if min(part.size) > 2 * width:
        inner = (width, width, part.width - width, part.height - width)
        tinted.paste(Image.blend(part, full, presence * _OPACITY * share).crop(inner), inner)
    picture.paste(tinted, box)


def label_boxes(picture: Image.Image, labels: Iterable[tuple[Box, str]], boxes: Sequence[Box], style: Style) -> None:
    """Write a label into the corner of each box or, if that would hide much of it, beside it where no other box is.

    A label without room is left out. Earlier labels come first.
    """
    draw, font = ImageDraw.Draw(picture), _font(style.small)
    pad, line = style.scaled(3, 2), style.line
    taken: list[Box] = []
    for (left, top, right, bottom), text in labels:
        x0, y0, x1, y1 = (round(side) for side in font.getbbox(text))
        width, height = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
        corner = (left + line, top + line, left + line + width, top + line + height)
        beside = [
            (x, y, x + width, y + height)
            for x, y in ((left, top - height), (left, bottom), (right, top), (left - width, top))
        ]
        places = [spot for spot in beside if not any(_overlap(spot, box) for box in boxes)]
        if corner[2] + line <= right and corner[3] + line <= bottom:
            hides_little = 4 * width * height <= (right - left) * (bottom - top)
            places.insert(0 if hides_little else len(places), corner)
        for spot in places:
            inside = min(spot) >= 0 and spot[2] <= picture.width and spot[3] <= picture.height
            if inside and not any(_overlap(spot, other) for other in taken):
                taken.append(spot)
                draw.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), BACKGROUND)
                draw.text((spot[0] + pad - x0, spot[1] + pad - y0), text, TEXT, font)
                break


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def scale_bar(name: str, note: str, colour: Colour, highest: str, style: Style) -> Image.Image:
    """A legend: a tint from none to the strongest, over dark and over bright tissue, and what it says."""
    width, height = style.panel_width, style.scaled(18, 8)
    strength = _OPACITY * np.linspace(0.0, 1.0, width)[None, :, None]
    grounds = np.where(np.arange(height) < height // 2, 40.0, 175.0)[:, None, None]
    pixels = (1 - strength) * grounds + strength * np.array(colour, np.float64)
    bar = Image.fromarray(pixels.round().astype(np.uint8))
    ImageDraw.Draw(bar).rectangle((0, 0, width - 1, height - 1), outline=colour)
    numbers = text_block("0", width, style.small)
    ImageDraw.Draw(numbers).text((width, round(style.small * 0.1)), highest, TEXT, _font(style.small), anchor="ra")
    above, below = text_block(name, width, style.small), text_block(note, width, style.small, DIM)
    return stack([above, bar, numbers, below], style.scaled(4, 2))


def percent(share: float, spread: float | None = None) -> str:
    """A probability as text, of an ensemble with its spread.

    It has one decimal, because zero-shot probabilities crowd around a half.
    """
    return f"{100 * share:.1f}%" + ("" if spread is None else f" ± {100 * spread:.1f}%")


def bar_list(rows: Sequence[tuple[str, float, str]], columns: int, style: Style) -> Image.Image:
    """Names with horizontal bars for shares in [0, 1], filling `columns` columns of a panel's width in turn.

    Args:
        rows: name, share, and the text at the right of the bar.
        columns: number of columns.
        style: sizes.
    """
    size, width = style.small, style.panel_width
    step, deep = round(size * 1.75), -(-len(rows) // columns)
    image = Image.new("RGB", (columns * width + (columns - 1) * style.gap, max(1, step * deep)), BACKGROUND)
    draw, font = ImageDraw.Draw(image), _font(size)
    name_room, value_room = round(width * 0.44), round(font.getlength(percent(1.0)))
    value_room = max([value_room, *(round(font.getlength(value)) for _, _, value in rows)])
    pad = style.scaled(8, 4)
    for number, (name, share, value) in enumerate(rows):
        column, row = divmod(number, deep)
        x, y = column * (width + style.gap), row * step
        left, right = x + name_room + pad, x + width - value_room - pad
        draw.text((x, y + step // 2), _shortened(name, name_room, size), TEXT, font, anchor="lm")
        top, bottom = y + step // 2 - size // 3, y + step // 2 + size // 3
        draw.rectangle((left, top, right, bottom), _TRACK)
        full = round((right - left) * min(max(share, 0.0), 1.0))
        if full:
            draw.rectangle((left, top, left + full, bottom), _FILL)
        draw.line(((left + right) // 2, top, (left + right) // 2, bottom), BACKGROUND)
        draw.text((x + width, y + step // 2), value, TEXT, font, anchor="rm")
    return image
