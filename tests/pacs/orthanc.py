"""A real Orthanc with its DICOMweb plugin, on free ports of 127.0.0.1 and in a temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import requests

from tests.bundles import free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLUGINS = Path("/usr/share/orthanc/plugins")
_SECONDS = 60


class Orthanc:
    """A context manager inside which the server runs. Stored objects are kept when it is started again.

    Args:
        folder: folder for its files.
        modalities: names of the entities to which it can send, with their AE titles and ports.
        settings: further settings of its configuration.

    Attributes:
        http: port of HTTP, which stays the same when it is started again.
        dicom: port of DICOM, likewise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        modalities: Mapping[str, tuple[str, int]] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        program = shutil.which("Orthanc")
        if program is None or not list(_PLUGINS.glob("libOrthancDicomWeb*")):
            pytest.skip("there is no Orthanc with DICOMweb here: apt-get install orthanc orthanc-dicomweb")
        self.http, self.dicom = free_ports(2)
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [program, str(folder / "orthanc.json")]
        self._log = folder / "log"
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "DicomModalities": {name: [title, "127.0.0.1", port] for name, (title, port) in (modalities or {}).items()},
            "DicomScuTimeout": 20,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(next(_PLUGINS.glob("libOrthancDicomWeb*")))],
            "DicomWeb": {"Enable": True},
            "StableAge": 1,
            **(settings or {}),
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of its REST interface."""
        return f"http://127.0.0.1:{self.http}"

    @property
    def web(self) -> str:
        """Root of its DICOMweb interface."""
        return f"{self.url}/dicom-web"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Its folder is temporary, and an orderly end takes seconds.
        self.stop(kill=True)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with self._log.open("ab") as log:
            environment = {**os.environ, "LC_ALL": "C.UTF-8"}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        end = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.http), timeout=5).close()
            except OSError:
                assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < end
                time.sleep(0.1)
            else:
                return

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(_SECONDS)
            self._process = None

    def get(self, path: str) -> Any:
        """JSON from its REST interface."""
        return self._answer(path).json()

    def _answer(self, path: str) -> requests.Response:
        answer = requests.get(self.url + path, timeout=30)
        answer.raise_for_status()
        return answer

    def post(self, path: str, content: object) -> requests.Response:
        """The reply to a request with JSON or bytes."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return requests.post(self.url + path, data=data, timeout=60)

    def add(self, *files: bytes) -> None:
        """Store DICOM files."""
        for each in files:
            self.post("/instances", each).raise_for_status()

    def send(self, modality: str) -> requests.Response:
        """Send every instance to a modality by C-STORE."""
        return self.post(f"/modalities/{modality}/store", self.get("/instances"))

    def instances(self, sop_class: str) -> list[str]:
        """Orthanc's identifiers of the instances of a SOP class, whose name is in `CLASSES`."""
        return [
            each
            for each in self.get("/instances")
            if self._answer(f"/instances/{each}/metadata/SopClassUid").text == CLASSES[sop_class]
        ]

    def file(self, identifier: str) -> bytes:
        """An instance."""
        return bytes(self._answer(f"/instances/{identifier}/file").content)


CLASSES = {"SR": "1.2.840.10008.5.1.4.1.1.88.33", "SC": "1.2.840.10008.5.1.4.1.1.7"}
