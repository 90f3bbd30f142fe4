"""A stand-in for the Hugging Face hub: one dataset repository, served from memory on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "someone/images"
PAGE = 3  # entries of the tree in one answer
LARGE = 1000  # bytes from which a file is kept in LFS: identified by SHA-256


class Request(NamedTuple):
    path: str
    range: str | None


@dataclass
class Hub:
    """Serves `files` (path → content) as the dataset repository `NAME`, as a context manager.

    `cut` breaks the connection once a response for that path has sent so many bytes, `cuts` times;
    `sends` has what is sent in place of what is listed.
    """

    files: Mapping[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    cut: Mapping[str, int] = field(default_factory=dict)
    cuts: int = 0
    gated: bool = False
    ignores_ranges: bool = False
    sends: Mapping[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        serve = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        serve.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for the content of a file."""
        return [request.range for request in self.requests if request.path == f"/cdn/{path}"]

    def tree(self) -> list[dict[str, Any]]:
        return [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}] + [
            self._entry(path, content) for path, content in self.files.items()
        ]

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": git, "size": len(content)}
        if len(content) > LARGE:
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(Request(path, self.headers["Range"]))
        commit = self.hub.commit
        if match := re.fullmatch(f"/api/datasets/{NAME}/revision/(.+)", path):
            self._revision(match[1])
        elif path == f"/api/datasets/{NAME}/tree/{commit}":
            self._tree(int(parse_qs(url.query).get("cursor", ["0"])[0]))
        elif match := re.fullmatch(f"/datasets/{NAME}/resolve/{commit}/(.+)", path):
            self._resolve(match[1])
        elif match := re.fullmatch("/cdn/(.+)", path):
            self._content(match[1])
        else:
            self._fail(404, "RepoNotFound")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def _revision(self, revision: str) -> None:
        if revision not in ("main", self.hub.commit):
            return self._fail(404, "RevisionNotFound")
        return self._json({"id": NAME, "sha": self.hub.commit, "tags": []})

    def _tree(self, cursor: int) -> None:
        entries = self.hub.tree()
        after = cursor + PAGE
        more = f"<{self.hub.url}{urlsplit(self.path).path}?recursive=True&cursor={after}>"
        link = {"Link": f'{more}; rel="next"'} if after < len(entries) else {}
        self._json(entries[cursor:after], link)

    def _resolve(self, path: str) -> None:
        if self.hub.gated:
            return self._fail(403, "GatedRepo")
        return self._answer(302, {"Location": f"{self.hub.url}/cdn/{path}"})

    def _content(self, path: str) -> None:
        whole = self.hub.sends.get(path, self.hub.files[path])
        start = 0
        if (wanted := self.headers["Range"]) and not self.hub.ignores_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(whole) - start))
        self.end_headers()
        most = self.hub.cut.get(path)
        if most is not None and self.hub.cuts:
            self.hub.cuts -= 1
            self.wfile.write(whole[start : start + most])
            self.close_connection = True
        else:
            self.wfile.write(whole[start:])

    def _json(self, content: Any, headers: Mapping[str, str] | None = None) -> None:
        self._answer(200, headers or {}, json.dumps(content).encode())

    def _fail(self, code: int, reason: str) -> None:
        self._answer(code, {"X-Error-Code": reason})

    def _answer(self, code: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
