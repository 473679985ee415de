"""Images that are kept in memory for further questions."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrclr.web._problems import HttpProblem

if TYPE_CHECKING:
    from lrclr.web._options import WebOptions


@dataclass(frozen=True)
class KeptImage:
    """A file and what was computed of it.

    Attributes:
        file: content of the file.
        encoded: what `Backend.encode` returned.
        frame: the frame that was read, for files with several frames.
        exact: whether every pixel was decoded.
    """

    file: bytes
    encoded: Any
    frame: int | None
    exact: bool

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        return len(self.file) + int(self.encoded.nbytes)


class KeptImages:
    """Images by a random key that cannot be guessed. Safe to call from several threads.

    Args:
        options: limits.
    """

    def __init__(self, options: WebOptions) -> None:
        self._options = options
        self._kept: OrderedDict[str, tuple[float, KeptImage]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, image: KeptImage) -> str:
        """Keep an image, and return its key. The least recently used images are removed if there is no room."""
        key = secrets.token_urlsafe(24)
        with self._lock:
            self._kept[key] = time.monotonic(), image
            self.bytes += image.nbytes
            while len(self._kept) > self._options.kept_images or self.bytes > self._options.kept_bytes:
                self._drop(next(iter(self._kept)))
        return key

    def get(self, key: str) -> KeptImage:
        """The image of a key.

        Raises:
            HttpProblem: 404; there is none, or it was forgotten.
        """
        self.expire()
        with self._lock:
            if key not in self._kept:
                raise HttpProblem(404, "this image is not kept, or not any more. Send the file again")
            image = self._kept[key][1]
            self._kept[key] = time.monotonic(), image
            self._kept.move_to_end(key)
            return image

    def forget(self, key: str) -> None:
        """Forget an image, if it is kept."""
        with self._lock:
            if key in self._kept:
                self._drop(key)

    def expire(self) -> None:
        """Forget images that were not used for too long."""
        with self._lock:
            while self._kept:
                key, (used, _) = next(iter(self._kept.items()))
                if time.monotonic() - used <= self._options.kept_seconds:
                    return
                self._drop(key)

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def _drop(self, key: str) -> None:
        self.bytes -= self._kept.pop(key)[1].nbytes
