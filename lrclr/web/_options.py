"""Options of `lrclr web`: where it listens, who may ask, and limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lrclr import budget
from lrclr._addresses import Address, check_port, ip_address, token_of
from lrclr._processors import processors
from lrclr.errors import UsageError

TOKEN_VARIABLE: Final = "LRCLR_WEB_TOKEN"  # noqa: S105 - a name
_MIB: Final = 2**20
_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True)
class WebOptions:
    """Where the process listens, the token, and limits.

    Attributes:
        host: address to listen on. Beyond loopback it needs a token.
        port: 0 for any free port.
        token: token for ``Authorization: Bearer`` of each request. None is allowed on loopback only. With a token, the
            process may be behind a proxy of any name. Without one, the headers ``Host`` and ``Origin`` are checked, so
            that a web page of another site cannot ask.
        body_bytes: greatest body of a request. It is checked while the body arrives.
        all_bodies_bytes: greatest sum of the bodies of all requests at a time.
        body_seconds: longest pause within a body, before a request, and of a client that reads an answer. A body that
            is slower than 16 KiB a second is refused after this time.
        images: greatest number of images in a request.
        texts: greatest number of prompts or texts in a request.
        running: requests that compute at a time; None for one per processor.
        queued: requests that wait for them. Further requests are refused with status 503.
        kept_images: images that are kept for further questions. Beyond it, the least recently used is forgotten.
        kept_bytes: greatest sum of their files and features.
        kept_seconds: an image that is not used for so long is forgotten.

    Raises:
        UsageError: it would listen beyond loopback without a token, the token is short, or a limit is not positive.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    body_bytes: int = budget.REQUEST_BYTES
    all_bodies_bytes: int = 4 * budget.REQUEST_BYTES
    body_seconds: float = 30.0
    images: int = budget.REQUEST_IMAGES
    texts: int = 256
    running: int | None = None
    queued: int = 16
    kept_images: int = 64
    kept_bytes: int = 512 * _MIB
    kept_seconds: float = 15 * 60.0

    def __post_init__(self) -> None:
        if not self.local and self.token is None:
            raise UsageError(
                f"anyone who reaches {self.host} could send requests",
                fix=f"Give a token with --token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1.",
            )
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise UsageError(
                f"the token has {len(self.token)} characters",
                why=f"at least {_SHORTEST_TOKEN} are needed, so that it cannot be guessed",
                fix="Make one with: openssl rand -hex 32",
            )
        check_port(self.port)
        limits = (
            *(self.body_bytes, self.all_bodies_bytes, self.body_seconds, self.images, self.texts),
            *(1 if self.running is None else self.running, self.kept_images, self.kept_bytes, self.kept_seconds),
        )
        if min(limits) <= 0 or self.queued < 0:
            raise UsageError("limits of the web server must be positive")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        # 0.0.0.0 and :: stand for all interfaces here, and not for this machine alone.
        return Address(self.host, 1).loopback and not getattr(ip_address(self.host), "is_unspecified", False)

    @property
    def workers(self) -> int:
        """Requests that compute at a time."""
        return processors() if self.running is None else self.running


def read_token(file: Path | None) -> str | None:
    """Read the token from a file, or from the environment variable `TOKEN_VARIABLE`; None if neither is given.

    Raises:
        UsageError: the file cannot be read, or the text is not one word of ASCII.
    """
    return token_of(file, TOKEN_VARIABLE)
