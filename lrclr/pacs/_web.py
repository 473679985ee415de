"""A client of DICOMweb (PS3.18): search, retrieve and store, with retries, limits and checked certificates."""

from __future__ import annotations

import json
import random
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from lrclr._addresses import Address, token_of
from lrclr.errors import ImageError, ImageLimitError, MissingExtraError, ServerError, ServerUnavailableError, UsageError
from lrclr.images import ReadLimits
from lrclr.pacs._reachability import Reachability

TOKEN_VARIABLE: Final = "LRCLR_DICOMWEB_TOKEN"  # noqa: S105 - the name of a variable
_JSON_BYTES: Final = 256 << 20
_PAGE: Final = 500
_MOST_RESULTS: Final = 1_000_000
_CHUNK: Final = 1 << 20
_MULTIPART: Final = 'multipart/related; type="application/dicom"'
_GONE: Final = frozenset({404, 410})
_BUSY: Final = frozenset({408, 425, 429})
# Attempts of a request after one that failed however often it was repeated.
_IN_DOUBT: Final = 2
_DUPLICATE: Final = 0x0111


@dataclass(frozen=True)
class DicomwebOptions:
    """How a DICOMweb server is reached.

    Attributes:
        token_file: file with a bearer token, or with a whole value of the header Authorization (``Basic …``). It is
            read for every session, so that it may change while a run lasts. Without it, the environment variable
            ``LRCLR_DICOMWEB_TOKEN`` is used if it is set.
        ca_file: certificates, in PEM, of the authorities that are trusted; None for the usual ones.
        allow_http: whether plain HTTP may go beyond this machine.
        attempts: of a request that the server did not answer, or answered with 429 or 5xx.
        first_pause: seconds before the second attempt; it doubles with each, up to a minute.
        timeout: seconds that the server may send nothing, and that an answer may be slower than 16 KiB a second.
        limits: on images.
    """

    token_file: Path | None = None
    ca_file: Path | None = None
    allow_http: bool = False
    attempts: int = 6
    first_pause: float = 0.5
    timeout: float = 60.0
    limits: ReadLimits = field(default_factory=ReadLimits)


def is_uid(value: object) -> bool:
    """Whether a value is a UID: digits and dots alone, so that it is safe in a URL and in a file name."""
    return isinstance(value, str) and len(value) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", value) is not None


def value_of(answer: Mapping[str, Any], tag: str) -> Any:
    """The first value of an attribute in DICOM JSON (PS3.18, annex F); None if there is none."""
    element = answer.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


class DicomwebClient:
    """A DICOMweb server. Safe to call from several threads; can be pickled: another process opens its own sessions.

    Args:
        url: root of the service, such as ``https://pacs.example/dicom-web``.
        options: how it is reached.

    Raises:
        UsageError: the URL cannot be used, or would send studies unencrypted over a network, or the token or the
            certificates cannot be read.
        MissingExtraError: requests is not installed.

    Attributes:
        url: as given, without a slash at its end.
        options: how it is reached.
    """

    def __init__(self, url: str, options: DicomwebOptions | None = None) -> None:
        self.options = options or DicomwebOptions()
        self.url = _checked_url(url, allow_http=self.options.allow_http)
        try:
            import requests  # noqa: F401
        except ImportError:
            raise MissingExtraError("requests", "pacs", "DICOMweb") from None
        self._authorization()
        _check_certificates(self.options.ca_file)
        self._local = threading.local()
        self._reachability = Reachability()

    def __getstate__(self) -> dict[str, object]:
        return {"url": self.url, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()
        self._reachability = Reachability()

    def search(self, path: str, parameters: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """All answers of a search (QIDO-RS), in pages; an answer can come twice if the archive changes meanwhile.

        Raises:
            ServerError: the server refuses, answers with something else, ignores the offset, or has over a million
                answers.
            ServerUnavailableError: it did not answer.
        """
        offset, first = 0, None
        while True:
            page, more = self._page(path, [*parameters, ("limit", str(_PAGE)), ("offset", str(offset))])
            if page and page[0] == first:
                raise ServerError("the server sends the same page again", why="it ignores the parameter offset")
            yield from page
            # A server that has a lower limit of its own says so in a warning (PS3.18, section 8.3.4.4).
            if not page or (len(page) < _PAGE and not more):
                return
            offset, first = offset + len(page), page[0]
            if offset > _MOST_RESULTS:
                raise ServerError(
                    f"the search has more than {_MOST_RESULTS} results",
                    why="its pages may never end",
                    fix="Narrow it, for example by date.",
                )

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        """An instance as a DICOM file (WADO-RS), in the transfer syntax in which the server keeps it.

        Raises:
            ImageError: the server does not have it.
            ImageLimitError: it is larger than the limits.
            ServerError: the server refuses, or answers with something else.
            ServerUnavailableError: it did not answer; it may when asked again.
        """
        status, headers, body = self._exchange(
            "GET",
            f"/studies/{study}/series/{series}/instances/{instance}",
            # Without this the server sends Explicit VR Little Endian, or fails where it cannot decode.
            {"Accept": f"{_MULTIPART}; transfer-syntax=*"},
            most=self.options.limits.max_bytes + _CHUNK,
        )
        if status in _GONE:
            raise ImageError("the image cannot be retrieved", why="the server no longer has it")
        if status != 200:
            raise _unexpected(status)
        return _first_part(headers.get("Content-Type", ""), body)

    def store(self, objects: Sequence[bytes]) -> None:
        """Send DICOM files (STOW-RS). One that the server has already counts as stored.

        Raises:
            ServerError: the server refuses some of them.
            ServerUnavailableError: it did not answer, or it has no room now.
        """
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(head + each + b"\r\n" for each in objects) + f"--{boundary}--\r\n".encode()
        status, _, answer = self._exchange(
            "POST",
            "/studies",
            {"Accept": "application/dicom+json", "Content-Type": f"{_MULTIPART}; boundary={boundary}"},
            body=body,
        )
        if status == 200 and not answer:
            return
        if status not in {200, 202, 409}:
            raise _unexpected(status)
        reasons = _failures(answer)
        if reasons is None and status != 200:
            raise ServerError("the server did not store the results", why=f"it answered with status {status}")
        refused = [reason for reason in reasons or () if reason != _DUPLICATE]
        if refused:
            # A7xx: out of resources (PS3.4, annex GG).
            kind = ServerUnavailableError if all(reason >> 8 == 0xA7 for reason in refused) else ServerError
            raise kind("the server did not store the results", why=f"its reason is {refused[0]:#06x}")

    def _page(self, path: str, parameters: Sequence[tuple[str, str]]) -> tuple[list[dict[str, Any]], bool]:
        accept = {"Accept": "application/dicom+json"}
        status, headers, body = self._exchange("GET", path, accept, parameters=parameters)
        if status == 204:
            return [], False
        if status == 413:
            raise ServerError("the search has too many results for the server", fix="Narrow it, for example by date.")
        if status != 200:
            raise _unexpected(status)
        content = _parsed(body)
        if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
            raise ServerError("the server's answer to a search is not DICOM JSON")
        return content, "299" in headers.get("Warning", "")

    def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        parameters: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        most: int = _JSON_BYTES,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, repeated where that may help: status, headers and body of the answer."""
        import requests

        place = f"the DICOMweb server {self._place}"
        self._reachability.check(place)
        why, pause, answered = "", self.options.first_pause, False
        attempts = min(self.options.attempts, _IN_DOUBT) if self._reachability.in_doubt else self.options.attempts
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause)
            pause = min(60.0, self.options.first_pause * 2**attempt) * random.uniform(0.75, 1.25)  # noqa: S311
            try:
                with self._session().request(
                    method,
                    self.url + path,
                    params=list(parameters),
                    headers=dict(headers),
                    data=body,
                    stream=True,
                    allow_redirects=False,
                    timeout=self.options.timeout,
                ) as answer:
                    status = int(answer.status_code)
                    if status not in _BUSY and status < 500:
                        content = _limited(answer, most)
                        self._reachability.note(succeeded=True)
                        return status, answer.headers, content
                    why, answered = f"it answered with status {status}", True
                    pause = max(pause, _retry_after(answer.headers))
            except requests.exceptions.SSLError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise ServerError(
                        "the server's certificate is not trusted",
                        fix="Give the certificate of its authority with --ca-file.",
                    ) from None
                why = "the encrypted connection failed"
            except OSError as error:  # also the errors of requests
                # Its text may quote the URL, with what was searched for.
                why = "it did not answer in time" if _is_timeout(error) else "the connection failed"
        self._reachability.note(succeeded=False, answered=answered)
        raise ServerUnavailableError(f"{place} cannot be reached", why=why)

    @property
    def _place(self) -> str:
        return urlsplit(self.url).netloc

    def _session(self) -> Any:
        session = getattr(self._local, "session", None)
        if session is None:
            import requests

            from lrclr.pacs._paced import PacedAdapter

            session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, PacedAdapter(self.options.timeout))
            # An object, since requests would otherwise put what ~/.netrc says in the place of the header.
            session.auth = _Authorization(self._authorization)
            session.headers["User-Agent"] = "lrclr"
            if self.options.ca_file is not None:
                session.verify = str(self.options.ca_file)
                # Otherwise REQUESTS_CA_BUNDLE wins.
                session.trust_env = False
            if Address(urlsplit(self.url).hostname or "", 1).loopback:
                session.trust_env = False
            self._local.session = session
        return session

    def _authorization(self) -> str | None:
        """Value of the header Authorization."""
        text = token_of(self.options.token_file, TOKEN_VARIABLE, with_scheme=True)
        return text if text is None or " " in text else f"Bearer {text}"


class _Authorization:
    """Puts the header into a request, as requests wants it."""

    def __init__(self, value: Callable[[], str | None]) -> None:
        self._value = value

    def __call__(self, request: Any) -> Any:
        value = self._value()
        if value is not None:
            request.headers["Authorization"] = value
        return request


def _check_certificates(file: Path | None) -> None:
    if file is None:
        return
    try:
        ssl.create_default_context(cafile=None if file.is_dir() else file, capath=file if file.is_dir() else None)
    except OSError as error:  # also ssl.SSLError
        why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"the certificates {file} cannot be read", why=why) from None


def _checked_url(url: str, *, allow_http: bool) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UsageError("the DICOMweb URL is not a URL") from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the DICOMweb URL holds a user name or a password",
            why="other users of this machine see the command line",
            fix=f"Put 'Basic …' or a token into a file for --token-file, or into {TOKEN_VARIABLE}.",
        )
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise UsageError("the DICOMweb URL cannot be used", fix="Give the root, as in https://pacs.example/dicom-web.")
    if parts.scheme == "http" and not allow_http and not Address(host, 1).loopback:
        raise UsageError(
            f"the DICOMweb server {parts.netloc} is reached without encryption",
            why="everyone on the network can read the studies and the token",
            fix="Use https, or add --allow-http.",
        )
    return url.rstrip("/")


def _limited(answer: Any, most: int) -> bytes:
    """The body, no more of it than `most` bytes."""
    declared = answer.headers.get("Content-Length", "")
    too_long = ImageLimitError(f"the server's answer is longer than {most} bytes")
    if declared.isdigit() and int(declared) > most:
        raise too_long
    content = bytearray()
    for chunk in answer.iter_content(_CHUNK):
        content += chunk
        if len(content) > most:
            raise too_long
    return bytes(content)


def _is_timeout(error: OSError) -> bool:
    import requests
    from urllib3.exceptions import ReadTimeoutError

    # In the middle of a body, requests raises a ConnectionError with the cause in it.
    return isinstance(error, requests.Timeout) or any(isinstance(each, ReadTimeoutError) for each in error.args)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), 300.0) if re.fullmatch(r"\d{1,6}", value) else 0.0


def _unexpected(status: int) -> ServerError:
    if status in {401, 403}:
        return ServerError(
            "the DICOMweb server refuses the request",
            why=f"status {status}: a token is missing, wrong or too old",
            fix=f"Give one with --token-file or {TOKEN_VARIABLE}.",
        )
    if 300 <= status < 400:
        return ServerError(
            "the DICOMweb server sends the request to another address",
            why="a token must not follow it there",
            fix="Give that address as the URL.",
        )
    # What the server wrote is not shown: it may hold what was searched for.
    return ServerError("the DICOMweb server cannot do what was asked", why=f"it answered with status {status}")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _failures(body: bytes) -> list[int] | None:
    """Reasons in a Failed SOP Sequence, which may be there and empty; None if the body is not DICOM JSON."""
    content = _parsed(body)
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, dict):
        return None
    failed = content.get("00081198")
    items = failed.get("Value") if isinstance(failed, dict) else None
    reasons = [value_of(item, "00081197") for item in items or () if isinstance(item, dict)]
    return [reason if isinstance(reason, int) else 0 for reason in reasons]


def _first_part(content_type: str, body: bytes) -> bytes:
    """The file in an answer to a retrieval."""
    if content_type.startswith("application/dicom") and "json" not in content_type:
        return body
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    damaged = ServerUnavailableError("the server's answer to a retrieval is damaged")
    if found is None:
        raise damaged
    delimiter = b"--" + found[1].encode("latin-1")
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter)
    begin = body.find(b"\r\n\r\n", start) if start >= 0 else -1
    # The delimiter may also be in the pixels; the last one closes the answer.
    end = body.rfind(b"\r\n" + delimiter)
    if begin < 0 or end < begin + 4:
        raise damaged
    return body[begin + 4 : end]
