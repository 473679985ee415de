"""The findings of an image in the phantom data set: draws them, and adds them to the volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.phantom import findings, opacities
from benchmarks.phantom.ct import LUNGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from benchmarks.phantom.ct import Mask, Phantom

__all__ = ["FINDINGS", "NO_FINDING", "Case", "Item", "draw_case", "put_in"]

FINDINGS = (
    "Pleural Effusion",
    "Consolidation",
    "Atelectasis",
    "Cardiomegaly",
    "Pneumothorax",
    "Lung Lesion",
    "Edema",
)
"""The findings, in the order of the columns and of the bits of a mask."""

NO_FINDING = "No Finding"

Size = Literal["small", "moderate", "large"]
SIZES: tuple[Size, ...] = ("small", "moderate", "large")
_NONE = 0.25  # share of cases without any finding
_HOW_MANY = (0.55, 0.32, 0.13)
_LUNG_WIDE = frozenset({"Cardiomegaly", "Edema"})


@dataclass(frozen=True, slots=True)
class Item:
    """One finding at one place.

    Attributes:
        name: one of `FINDINGS`.
        side: the patient's "left" or "right"; "" where the finding has no side.
        lobe: name of the structure; "" where the finding is not in one lobe.
        size: size as a word.
        amount: position within the range of the size, 0 to 1.
    """

    name: str
    side: findings.Side | Literal[""]
    lobe: str
    size: Size
    amount: float

    def between(self, *limits: float) -> float:
        """The value for this size and amount. The four limits bound small, moderate and large."""
        at = SIZES.index(self.size)
        return limits[at] + self.amount * (limits[at + 1] - limits[at])


@dataclass(frozen=True, slots=True)
class Case:
    """The findings of one image; a normal one has none."""

    items: tuple[Item, ...]

    @property
    def names(self) -> frozenset[str]:
        """The positive labels; `NO_FINDING` for a normal image."""
        return frozenset(item.name for item in self.items) or frozenset({NO_FINDING})


def draw_case(rng: np.random.Generator) -> Case:
    """Draw findings, their places and sizes."""
    if rng.random() < _NONE:
        return Case(())
    count = 1 + int(rng.choice(len(_HOW_MANY), p=_HOW_MANY))
    names = {FINDINGS[int(at)] for at in rng.choice(len(FINDINGS), count, replace=False)}
    # Heart failure often causes these together with edema.
    if "Edema" in names:
        names |= {name for name in ("Cardiomegaly", "Pleural Effusion") if rng.random() < 0.35}
    items: list[Item] = []
    for name in FINDINGS:
        if name in names:
            items.extend(_items(name, rng, items))
    return Case(tuple(items))


def put_in(phantom: Phantom, case: Case, rng: np.random.Generator) -> tuple[Phantom, dict[str, Mask]]:
    """Add the findings to a body; returns the new body, and the voxels of each finding by its name."""
    masks: dict[str, Mask] = {}
    for item in case.items:
        phantom, mask = _put(phantom, item, rng)
        masks[item.name] = masks[item.name] | mask if item.name in masks else mask
    return phantom, masks


def _items(name: str, rng: np.random.Generator, there: Sequence[Item]) -> list[Item]:
    if name in _LUNG_WIDE:
        return [_item(name, "", "", rng)]
    sides: list[findings.Side] = ["left", "right"]
    if name == "Pneumothorax":
        # Air beside fluid or an airless lobe looks different, so a side has only one of them.
        sides = [side for side in sides if all(i.side != side or i.name == "Lung Lesion" for i in there)]
        if not sides:
            return []
    if name == "Pleural Effusion" and rng.random() < 0.3:
        return [_item(name, side, "", rng) for side in sides]
    side = sides[int(rng.integers(len(sides)))]
    if name in {"Pleural Effusion", "Pneumothorax"}:
        return [_item(name, side, "", rng)]
    taken = {item.lobe for item in there}
    free = {each: [lobe for lobe in LUNGS[each] if lobe not in taken] for each in sides}
    # The left lung has two lobes, and three findings occupy one lobe each.
    side = side if free[side] else next(each for each in sides if free[each])
    return [_item(name, side, free[side][int(rng.integers(len(free[side])))], rng)]


def _item(name: str, side: findings.Side | Literal[""], lobe: str, rng: np.random.Generator) -> Item:
    return Item(name, side, lobe, SIZES[int(rng.choice(3, p=(0.3, 0.4, 0.3)))], float(rng.random()))


def _put(phantom: Phantom, item: Item, rng: np.random.Generator) -> tuple[Phantom, Mask]:  # noqa: PLR0911 - a table
    match item.name, item.side:
        case "Pleural Effusion", ("left" | "right") as side:
            level, rise = item.between(0.1, 0.2, 0.36, 0.6), item.between(35, 50, 70, 85)
            return findings.effusion(phantom, side, level=level, rise_mm=rise)
        case "Pneumothorax", ("left" | "right") as side:
            return findings.pneumothorax(phantom, side, collapse=item.between(0.15, 0.25, 0.4, 0.62))
        case "Consolidation", _:
            if item.size == "large":
                return findings.consolidation(phantom, item.lobe, rng, fill=0.6 + 0.3 * item.amount)
            return opacities.patch(phantom, item.lobe, rng, radius_mm=item.between(24, 32, 45, 45))
        case "Atelectasis", _:
            kept, lift = item.between(0.75, 0.65, 0.55, 0.45), item.between(6, 12, 20, 28)
            return opacities.atelectasis(phantom, item.lobe, kept=kept, lift_mm=lift)
        case "Lung Lesion", _:
            return opacities.lesion(phantom, item.lobe, rng, radius_mm=item.between(8, 11, 16, 24), hu=90)
        case "Edema", _:
            amount, reach = item.between(0.22, 0.32, 0.45, 0.6), item.between(38, 42, 48, 58)
            return opacities.edema(phantom, rng, amount=amount, reach_mm=reach)
        case "Cardiomegaly", _:
            return _enlarged_heart(phantom, item.between(1.22, 1.32, 1.45, 1.6))
    raise ValueError(f"unknown finding {item.name!r} on side {item.side!r}")


def _enlarged_heart(phantom: Phantom, scale: float) -> tuple[Phantom, Mask]:
    """The mask is the whole enlarged heart, as a reader would point at it, not only its new rim."""
    changed, rim = findings.cardiomegaly(phantom, scale=scale)
    return changed, rim | phantom.region(("heart",))
