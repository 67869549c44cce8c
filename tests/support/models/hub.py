"""A stand-in for the Hugging Face hub, which tests can't reach: its HTTP protocol, as a download needs it.

Each behaviour names where it is known from; all were read on 2026-11-30. "Client" is huggingface_hub 0.36.2,
which is the real one here. Xet, the hub's other protocol, is announced as the hub does, and not spoken.

    python -m tests.support.models.hub FOLDER NAME
                                        serves a folder as the repository NAME until its input ends
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

# https://huggingface.co/Salesforce/blip-image-captioning-base/tree/82a37760796d32b1411fe092ab5d4e227313294b
COMMIT = "82a37760796d32b1411fe092ab5d4e227313294b"
BASE = {  # its files, which of them are in Git LFS there, and their bytes
    ".gitattributes": 1_480,
    "README.md": 6_359,
    "config.json": 4_563,
    "preprocessor_config.json": 287,
    "pytorch_model.bin": 989_820_849,
    "special_tokens_map.json": 125,
    "tf_model.h5": 990_000_000,
    "tokenizer.json": 711_396,
    "tokenizer_config.json": 506,
    "vocab.txt": 231_508,
}
LARGE = re.compile(
    r".*\.(bin|h5|safetensors)"
)  # its .gitattributes, as every repository's that the hub makes


@dataclass
class Hub:
    """Repositories, each a folder, and what was asked for: "GET path", "GET path bytes=100-"."""

    repositories: dict[str, Path]
    cuts: dict[str, int] = field(default_factory=dict)  # how often the body of a file is broken off half way
    altered: set[str] = field(default_factory=set)  # files of which one byte is another than the hub says
    asked: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of large files
    address: str = ""


@cache
def digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read()).hexdigest()  # noqa: S324  Git's


class Handler(BaseHTTPRequestHandler):
    """The hub's paths, and its CDN's below /cdn, as the same server."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_CONNECT(self) -> None:
        """Refuse, as a proxy that forbids all: tests need only the request (RFC 9110, 9.3.6)."""
        self.hub.asked.append(f"CONNECT {self.path}")
        self.send_error(HTTPStatus.FORBIDDEN)

    def _answer(self, with_body: bool) -> None:
        url = urlsplit(self.path)
        asked = self.headers.get("Range", "")
        self.hub.asked.append(f"{self.command} {url.path} {asked}".strip())
        parts = url.path.strip("/").split("/")
        match parts:
            case ["api", "models", owner, name, *rest] if rest[:1] in ([], ["revision"]):
                self._info(f"{owner}/{name}", rest[1:], "blobs" in parse_qs(url.query))
            case ["api", "resolve-cache", "models", owner, name, _, file]:
                self._file(self.hub.repositories[f"{owner}/{name}"] / file, with_body)
            case ["cdn", owner, name, file]:
                self._large(self.hub.repositories[f"{owner}/{name}"] / file, asked, with_body)
            case [owner, name, "resolve", revision, file]:
                self._resolve(f"{owner}/{name}", revision, file)
            case _:
                self._error(HTTPStatus.NOT_FOUND, "", "Not found")

    def _found(self, name: str, revision: str) -> Path | None:
        # Client, utils/_http.py, hf_raise_for_status: without a token, the hub answers 401 for what does not
        # exist, so that private names stay secret; X-Error-Code distinguishes the two.
        if name not in self.hub.repositories:
            self._error(HTTPStatus.UNAUTHORIZED, "", "Invalid username or password.")
        elif revision not in ("main", COMMIT):
            self._error(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return self.hub.repositories[name]
        return None

    def _info(self, name: str, revision: list[str], blobs: bool) -> None:
        """Answer model_info of the client's hf_api.py: /api/models/NAME/revision/REVISION?blobs=True."""
        if not (folder := self._found(name, "/".join(revision) or "main")):
            return
        files: list[dict[str, Any]] = []
        for path in sorted(folder.iterdir()):
            files.append({"rfilename": path.name})
            if blobs:
                size = path.stat().st_size
                files[-1] |= {"size": size, "blobId": digest(path, "git")} if size < 1e7 else {"size": size}
                if LARGE.fullmatch(path.name):
                    files[-1]["lfs"] = {"sha256": digest(path, "sha256"), "size": size, "pointerSize": 134}
        body = json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": files}).encode()
        self._head(HTTPStatus.OK, {"Content-Type": "application/json", "Content-Length": len(body)})
        self.wfile.write(body)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if not (folder := self._found(name, revision)):
            return
        path = folder / file
        if not path.is_file():
            self._error(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        elif LARGE.fullmatch(file):
            # A `curl -sIL` of 2026 of huggingface.co/Xenova/all-MiniLM-L6-v2/resolve/main/onnx/... : 302 to a
            # CDN, these headers, and x-linked-etag is the SHA-256. X-Xet-Hash and the link:
            # huggingface/xet-core, docs/source/file-id.md, and the client's utils/_xet.py.
            self._head(
                HTTPStatus.FOUND,
                {
                    "Location": f"{self.hub.address}/cdn/{name}/{file}",
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{digest(path, "sha256")}"',
                    "X-Linked-Size": path.stat().st_size,
                    "X-Xet-Hash": "0" * 64,
                    "Link": f'<{self.hub.address}/api/models/{name}/xet-read-token/{COMMIT}>; rel="xet-auth"',
                    "Accept-Ranges": "bytes",
                    "Content-Length": 0,
                },
            )
        else:
            # Logs of clients of 2026-07: "HEAD .../resolve/main/config.json 307 Temporary Redirect", then
            # "HEAD .../api/resolve-cache/models/NAME/COMMIT/config.json 200 OK"; the redirect is relative.
            location = f"/api/resolve-cache/models/{name}/{COMMIT}/{file}"
            self._head(HTTPStatus.TEMPORARY_REDIRECT, {"Location": location, "Content-Length": 0})

    def _file(self, path: Path, with_body: bool) -> None:
        """Send a small file; its ETag is Git's hash of it (client, get_hf_file_metadata)."""
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(path, "git")}"'}
        self._head(HTTPStatus.OK, headers | {"Content-Length": path.stat().st_size})
        if with_body:
            self.wfile.write(path.read_bytes())

    def _large(self, path: Path, asked: str, with_body: bool) -> None:
        """Send a file as the CDN does, whole or from an offset (RFC 9110, 14.2)."""
        size = path.stat().st_size
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        headers: dict[str, object] = {"Accept-Ranges": "bytes", "Content-Length": size - first}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        self._head(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK, headers)
        if not with_body:
            return
        last = size
        if self.hub.cuts.get(path.name, 0):
            self.hub.cuts[path.name] -= 1
            self.close_connection = True
            last = (first + size) // 2
        with path.open("rb") as file:
            file.seek(first)
            if path.name in self.hub.altered:
                self.wfile.write(bytes([file.read(1)[0] ^ 1]))
            _copy(file, self.wfile, last)
        self.hub.sent[path.name] = self.hub.sent.get(path.name, 0) + last - first

    def _error(self, status: HTTPStatus, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        self._head(status, headers | {"X-Error-Message": message, "Content-Length": 0})

    def _head(self, status: HTTPStatus, headers: Mapping[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the log."""


def _copy(file: IO[bytes], to: Any, last: int) -> None:
    while (left := last - file.tell()) > 0:
        to.write(file.read(min(left, 1 << 20)))


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    """Serve these folders as a hub, under these names."""
    hub = Hub(dict(repositories))
    handler = type("Bound", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


if __name__ == "__main__":
    with serving({sys.argv[2]: Path(sys.argv[1])}) as served:
        print(f"export HF_ENDPOINT={served.address}", flush=True)
        sys.stdin.read()
