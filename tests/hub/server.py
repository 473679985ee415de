"""A server on this machine with the part of the hub's API that downloads and uploads of models use.

It follows the requests of huggingface_hub 2.4: what the library sends, which headers it reads, and how it distinguishes
a gated repository, an unknown repository and an unknown revision.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LFS: Final = (".safetensors", ".bin", ".onnx", ".data", ".npz", ".pt")
_RESOLVE: Final = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API: Final = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree|preupload|commit)/([^/]+))?")


@dataclass
class Repository:
    """A repository: the files of each commit, and the commit of each branch or tag."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        content = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in sorted(files.items())})
        commit = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        repositories: repositories by name.
        tokens: for each token, the private or gated repositories that it may read and write.
        requests: method and path of every request, in order.
        objects: large files by their SHA-256.
        fault: called before each request is answered. If it returns a number, this status is sent instead.
        spoil: changes the content of a large file before it is sent.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[str, str], int | None] = lambda _method, _path: None
    spoil: Callable[[bytes], bytes] = lambda content: content
    url: str = ""

    @property
    def storage(self) -> str:
        """The host of large files, which is another host, as on the real hub. Clients do not send it the token."""
        return self.url.replace("127.0.0.1", "localhost")

    def add(self, name: str, folder: Path | dict[str, bytes], **settings: Any) -> str:
        """Put the files of a folder into a new repository, or into a new commit of an existing one.

        Returns the commit.
        """
        if not isinstance(folder, dict):
            folder = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        repository = self.repositories.setdefault(name, Repository(**settings))
        self.objects |= {hashlib.sha256(data).hexdigest(): data for data in folder.values()}
        return repository.commit(folder)

    def fetched(self) -> set[str]:
        """Names of the files whose content was requested."""
        return {match[3] for method, path in self.requests if method == "GET" and (match := _RESOLVE.fullmatch(path))}


def _is_lfs(name: str) -> bool:
    return name.endswith(LFS)


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        status = self.hub.fault(self.command, path)
        if status is not None:
            self._send(status, b"the hub is out of order")
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match[1], match[2], match[3])
        elif path.startswith("/cdn/"):
            assert self._token() is None
            self._content(self.hub.spoil(self.hub.objects[path.removeprefix("/cdn/")]), {})
        elif path.startswith("/lfs/"):
            assert hashlib.sha256(self.body).hexdigest() == path.removeprefix("/lfs/")
            self.hub.objects[path.removeprefix("/lfs/")] = self.body
            self._send(200)
        elif path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            front = json.loads(self.body)["content"].split("---\n")[1]
            bad = [line for line in front.splitlines() if not re.fullmatch(r"[a-z_]+: \S.*", line)]
            self._json({"errors": [{"message": line} for line in bad], "warnings": []}, 400 if bad else 200)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch()
        elif match := _API.fullmatch(path):
            self._api(match[1], match[2] or "revision", match[3] or "main")
        else:
            self._send(404)

    def _chunks(self) -> bytes:
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return content

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _visible(self, name: str) -> Repository | None:
        """The repository. None after a reply that it does not exist, or that the token has no access."""
        repository, token = self.hub.repositories.get(name), self._token()
        if token is not None and token not in self.hub.tokens:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and name not in self.hub.tokens.get(token or "", ())):
            self._refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        else:
            return repository
        return None

    def _commit_of(self, repository: Repository, revision: str) -> str | None:
        commit = repository.refs.get(revision, revision)
        if commit in repository.commits or not repository.commits:
            return commit
        self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._visible(name)
        if repository is None:
            return
        if repository.gated and name not in self.hub.tokens.get(self._token() or "", ()):
            self._refuse(401 if self._token() is None else 403, "GatedRepo", f"Access to model {name} is restricted.")
            return
        commit = self._commit_of(repository, revision)
        if commit is None:
            return
        data = repository.commits[commit].get(file)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not _is_lfs(file):
            self._content(data, {**headers, "ETag": f'"{_blob_id(data)}"'})
            return
        digest = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"'}
        self._send(302, b"", {**headers, "Location": f"{self.hub.storage}/cdn/{digest}"})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match is None:
            self._send(200, data, headers)
        else:
            start = int(match[1])
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[start:], {**headers, "Content-Range": span})

    def _api(self, name: str, kind: str, revision: str) -> None:
        repository = self._visible(name)
        commit = None if repository is None else self._commit_of(repository, revision)
        if repository is None or commit is None:
            return
        files = repository.commits.get(commit, {})
        if kind == "revision":
            blobs = "blobs" in parse_qs(urlsplit(self.path).query)
            siblings = [_sibling(file, data, blobs=blobs) for file, data in files.items()]
            gated = "manual" if repository.gated else False
            about = {"id": name, "modelId": name, "sha": commit or None, "private": repository.private, "gated": gated}
            self._json({**about, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})
        elif kind == "tree":
            self._json([_entry(file, data) for file, data in files.items()])
        elif self._token() is None or name not in self.hub.tokens[str(self._token())]:
            self._refuse(403, "", "This token may not write")
        elif kind == "preupload":
            asked = json.loads(self.body)["files"]
            modes = [(one["path"], "lfs" if _is_lfs(one["path"]) else "regular") for one in asked]
            self._json({"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]})
        else:
            self._new_commit(name, repository, dict(files), commit)

    def _new_commit(self, name: str, repository: Repository, files: dict[str, bytes], parent: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        wanted = lines[0]["value"].get("parentCommit")
        if wanted is not None and wanted != parent:
            self._refuse(412, "", "A commit has happened since")
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        commit = repository.commit(files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        token = self._token()
        if token is None or token not in self.hub.tokens:
            self._refuse(401, "", "Invalid username or password.")
        elif name in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        else:
            self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
            self.hub.repositories[name].commit({".gitattributes": b"*.onnx filter=lfs\n"})
            self.hub.tokens[token].add(name)
            self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _batch(self) -> None:
        objects = []
        for one in json.loads(self.body)["objects"]:
            there = one["oid"] in self.hub.objects
            actions = {} if there else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            objects.append({**one, **actions})
        self._json({"transfer": "basic", "objects": objects})

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(file: str, data: bytes, *, blobs: bool) -> dict[str, Any]:
    more: dict[str, Any] = {"size": len(data), "blobId": _blob_id(data)} if blobs else {}
    if blobs and _is_lfs(file):
        more["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return {"rfilename": file, **more}


def _entry(file: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": _blob_id(data)}
    if _is_lfs(file):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


@contextmanager
def serving() -> Iterator[Hub]:
    """A running hub on a free port."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
