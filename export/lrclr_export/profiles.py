"""The sizes that a bundle is made for: said once, in its manifest; plans and Triton's configuration follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr.budget import RUN_PROMPTS
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr.text import ClipTokenizer, FindingSet

_COMMON_BATCH = 8
_MOST_IMAGES = 1024
_FEWEST_TOKENS = 2  # of an empty prompt: its beginning and its end

Profile = dict[str, list[int]]


def profiles(findings: FindingSet, tokenizer: ClipTokenizer, *, max_batch: int) -> list[Profile]:
    """The smallest, the commonest and the largest size of each dynamic axis: for one image, and for batches.

    Args:
        findings: which most requests will ask for.
        tokenizer: tells how long their prompts are.
        max_batch: most images at once.

    Raises:
        UsageError: no image fits.
    """
    if not 1 <= max_batch <= _MOST_IMAGES:
        raise UsageError(
            f"a batch of {max_batch} images is not possible", fix=f"--max-batch must be from 1 to {_MOST_IMAGES}."
        )
    lengths = tokenizer.encode(findings.prompts, truncate=True).mask.sum(1)
    count, length = len(lengths), max(_FEWEST_TOKENS, int(lengths.max()))
    texts = {
        "prompts": [1, min(count, RUN_PROMPTS), max(count, RUN_PROMPTS)],
        "tokens": [_FEWEST_TOKENS, length, tokenizer.context_length],
    }
    one = {"batch": [1, 1, 1], **texts}
    return [one] if max_batch == 1 else [one, {"batch": [1, min(_COMMON_BATCH, max_batch), max_batch], **texts}]


def profiles_of_graph(
    shapes: Mapping[str, Sequence[int | str]], of_bundle: Sequence[Profile]
) -> list[dict[str, Profile]]:
    """What `profiles` mean for one graph: per profile and input its ``min``, ``opt`` and ``max`` shape.

    Args:
        shapes: shapes of the graph's inputs. A name stands for a dynamic axis.
        of_bundle: from the manifest.
    """
    found: list[dict[str, Profile]] = []
    for profile in of_bundle:
        sizes = {
            name: {
                which: [profile[axis][place] if isinstance(axis, str) else axis for axis in shape]
                for place, which in enumerate(("min", "opt", "max"))
            }
            for name, shape in shapes.items()
        }
        # A graph without images has one profile, however many there are for batches.
        if sizes not in found:
            found.append(sizes)
    return found
