"""A local Hugging Face Hub that implements what huggingface_hub needs to find, list and download models."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BOT, TITLE = "SFconvertbot", "Adding `safetensors` variant of this model"
LARGE = (".safetensors", ".bin")  # stored in LFS, for which the hub reports a hash


@dataclass
class Repository:
    """A model repository on the hub.

        Attributes:
    files: Files of the main branch.
    requests: Its pull requests: author, title and files.
    gated: Whether a token is required.
    moved_to: Its current name, if it was renamed.
    lost: Files whose download is interrupted halfway, with the remaining number of interruptions.
    corrupt: Files served with bytes that do not match their hash.
    card: Metadata of the model card.
    """

    files: dict[str, bytes]
    requests: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    gated: bool = False
    moved_to: str = ""
    lost: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    card: dict[str, Any] = field(default_factory=dict)

    def revision(self, name: str) -> tuple[str, dict[str, bytes]] | None:
        """Return commit and files of a branch, a pull request or a commit."""
        every = {"main": self.files}
        every |= {f"refs/pr/{number}": files for number, (_, _, files) in enumerate(self.requests, start=1)}
        for branch, files in every.items():
            commit = hashlib.sha1(f"{branch} {sorted(files)}".encode()).hexdigest()
            if name in (branch, commit):
                return commit, files
        return None


@dataclass
class LocalHub:
    """The address of a running hub, its models by name, and the requests it received."""

    address: str
    models: dict[str, Repository]
    received: list[str] = field(default_factory=list)


@contextmanager
def local_hub(models: dict[str, Repository]) -> Iterator[LocalHub]:
    """Run a hub that serves these models."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = url.path.replace("%2F", "/")
            hub.received.append(f"{self.command} {path}")
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+?)|/(discussions))?", path):
                name, kind, revision, discussions = found.groups()
                query = parse_qs(url.query)
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
                name, revision, file = found.groups()
                kind, discussions = "resolve", None
            else:
                return self.error(404, "EntryNotFound")
            model = hub.models.get(name)
            if model is None:
                return self.error(404, "RepoNotFound")
            if model.moved_to:
                return self.answer(b"", {"Location": self.path.replace(name, model.moved_to)}, 307)
            if discussions:
                return self.discussions(name, model, int(query.get("p", ["0"])[0]))
            at = model.revision(revision or "main")
            if at is None:
                return self.error(404, "RevisionNotFound")
            commit, files = at
            if kind == "resolve":
                return self.resolve(model, commit, files, file)
            if kind == "tree":
                return self.json([{"type": "file", **self.entry(files, each), "path": each} for each in files])
            siblings = [
                {"rfilename": each, "blobId": self.entry(files, each)["oid"], **self.entry(files, each)}
                for each in files
            ]
            about = {"id": name, "sha": commit, "siblings": siblings, "cardData": model.card, "gated": model.gated}
            return self.json(about)

        def entry(self, files: dict[str, bytes], name: str) -> dict[str, Any]:
            content = files[name]
            entry: dict[str, Any] = {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 100}
            return entry

        def discussions(self, name: str, model: Repository, page: int) -> None:
            listed = [
                {
                    "num": number,
                    "title": title,
                    "status": "open",
                    "isPullRequest": True,
                    "author": {"name": author},
                    "createdAt": "2024-01-01T00:00:00.000Z",
                    "repo": {"name": name, "type": "model"},
                }
                for number, (author, title, _) in enumerate(model.requests, start=1)
            ]
            self.json({"discussions": listed if page == 0 else [], "start": 0, "count": len(listed)})

        def resolve(self, model: Repository, commit: str, files: dict[str, bytes], name: str) -> None:
            if model.gated and "Authorization" not in self.headers:
                return self.error(403, "GatedRepo")
            if name not in files:
                return self.error(404, "EntryNotFound")
            content = files[name]
            digest = (hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1)(content).hexdigest()
            if name in model.corrupt:
                content = bytes(len(content))
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if self.command == "GET" and model.lost.get(name):
                model.lost[name] -= 1
                self.answer(content, headers, part=len(content) // 2)
                self.close_connection = True
                return None
            status = 200
            if wanted := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
                first = int(wanted[1])
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                content, status = content[first:], 206
            return self.answer(content, headers, status)

        def json(self, value: object) -> None:
            self.answer(json.dumps(value).encode())

        def error(self, status: int, code: str) -> None:
            self.answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

        def answer(
            self, body: bytes, headers: dict[str, str] | None = None, status: int = 200, part: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:part])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = LocalHub(f"http://127.0.0.1:{server.server_port}", models)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
