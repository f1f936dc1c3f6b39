"""A hub of datasets on loopback: the few endpoints that `datasets` and `huggingface_hub` ask, over folders of files.

It keeps what was asked, and serves ranges and HEAD as the hub does, with the commit and the ETag that clients cache by.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """A running hub; `sets` are owner/name → folder."""

    sets: dict[str, Path]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    token: str | None = None
    """What opens its sets, which are gated; None where all are open."""

    def commit(self, name: str) -> str:
        """The commit of a set: of its files."""
        return hashlib.sha1(json.dumps(sorted(self.files(name).items())).encode()).hexdigest()

    def files(self, name: str) -> dict[str, str]:
        """Path in a set → digest of the file."""
        folder = self.sets[name]
        found = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve the folders of `Hub.sets` as datasets of a hub."""
    hub = Hub({})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_POST(self) -> None:
            self.rfile_body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            name = next((each for each in hub.sets if f"/{each}/" in path + "/"), None)
            if name is None:
                return self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
            rest = path.partition(f"/{name}")[2].strip("/").split("/")
            if (
                hub.token
                and self.headers.get("Authorization") != f"Bearer {hub.token}"
                and rest[0] not in ("", "revision")
            ):
                return self._send(401, b"{}", body, {"X-Error-Code": "GatedRepo"})
            if path.startswith("/api/"):
                return self._api(name, rest, body)
            if len(rest) >= 3 and rest[0] in ("resolve", "raw"):
                return self._file(name, "/".join(rest[2:]), body)
            return self._send(404, b"{}", body, {"X-Error-Code": "EntryNotFound"})

        def _api(self, name: str, rest: list[str], body: bool) -> None:
            files, commit = hub.files(name), hub.commit(name)
            entries: list[dict[str, Any]] = [
                {"type": "file", "path": path, "oid": digest[:40], "size": (hub.sets[name] / path).stat().st_size}
                for path, digest in sorted(files.items())
            ]
            if rest[0] in ("", "revision"):
                siblings = [{"rfilename": each["path"]} for each in entries]
                info = {"id": name, "_id": "1", "sha": commit, "siblings": siblings, "tags": [], "private": False}
                info |= {"gated": "auto"} if hub.token else {}
                return self._json(info | {"lastModified": "2026-01-01T00:00:00.000Z", "downloads": 0, "likes": 0}, body)
            if rest[0] == "tree":
                below = "/".join(rest[2:])
                found = [each for each in entries if not below or each["path"].startswith(below + "/")]
                folders = sorted({str(Path(each["path"]).parent) for each in found} - {".", below})
                return self._json(
                    [*({"type": "directory", "path": each, "oid": "0" * 40} for each in folders), *found], body
                )
            if rest[0] == "paths-info":
                from urllib.parse import parse_qs

                wanted = parse_qs(self.rfile_body.decode()).get("paths", [])
                if not wanted:
                    wanted = json.loads(self.rfile_body or b"{}").get("paths", [])
                parents = {str(parent) for each in entries for parent in Path(each["path"]).parents}
                dirs = [{"type": "directory", "path": each, "oid": "0" * 40} for each in wanted if each in parents]
                return self._json([*dirs, *(each for each in entries if each["path"] in wanted)], body)
            return self._send(404, b"{}", body, {"X-Error-Code": "EntryNotFound"})

        def _json(self, value: Any, body: bool) -> None:
            self._send(200, json.dumps(value).encode(), body, {"Content-Type": "application/json"})

        def _file(self, name: str, inner: str, body: bool) -> None:
            path = hub.sets[name] / inner
            headers = {"X-Repo-Commit": hub.commit(name)}
            if not path.is_file():
                return self._send(404, b"", body, {**headers, "X-Error-Code": "EntryNotFound"})
            data = path.read_bytes()
            headers |= {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            asked = self.headers.get("Range", "")
            if not asked.startswith("bytes="):
                return self._send(200, data, body, headers)
            start, _, end = asked.removeprefix("bytes=").partition("-")
            last = min(int(end) if end else len(data) - 1, len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
            return self._send(206, data[int(start) : last + 1], body, headers)

        def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
