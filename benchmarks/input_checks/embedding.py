"""Does the distance of an image's embedding from those of known images tell what the model is not for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

__all__ = ["separation"]

_SHRINKAGE: Final = 0.1
_NEIGHBOUR: Final = 5


def separation(known: Floats, kinds: Mapping[str, Floats]) -> Iterator[str]:
    """Lines of a table in Markdown: the share of each kind beyond the limit, by distance.

    Args:
        known: ``[N, D]`` embeddings of validation images. Half of them give the statistics, the other half the limit,
            beyond which 1 % of them are.
        kinds: ``[M, D]`` embeddings of other images, by kind.
    """
    yield f"| distance | {' | '.join(kinds)} |"
    yield f"|---|{'---|' * len(kinds)}"
    fitted, held_out = known[::2], known[1::2]
    for name, distance in _distances(fitted).items():
        limit = np.quantile(distance(held_out), 0.99)
        shares = [float((distance(embeddings) > limit).mean()) for embeddings in kinds.values()]
        yield f"| {name} | {' | '.join(f'{share:.0%}' for share in shares)} |"


def _distances(fitted: Floats) -> dict[str, Callable[[Floats], Floats]]:
    mean = fitted.mean(axis=0)
    covariance = np.cov(fitted.T)
    average = np.trace(covariance) / len(covariance)
    inverse = np.linalg.inv((1 - _SHRINKAGE) * covariance + _SHRINKAGE * average * np.eye(len(covariance)))
    return {
        "Mahalanobis, covariance shrunk by 0.1": lambda x: np.einsum("bd,de,be->b", x - mean, inverse, x - mean),
        "cosine with the mean": lambda x: 1 - x @ mean / np.linalg.norm(mean),
        "cosine with the fifth nearest": lambda x: 1 - np.sort(x @ fitted.T, axis=1)[:, -_NEIGHBOUR],
    }
