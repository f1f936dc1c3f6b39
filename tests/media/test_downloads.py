"""Media by http: fetched once from hosts that are named, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media import downloads
from vlm_prep.media.downloads import Downloads
from vlm_prep.shards.layout import read_rejects

ASKED: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def drip(self) -> None:
        """A byte at a time, for ever: of a header, or of a file without a length."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if "body" in self.path else b"X-Long: "))
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)

    def do_GET(self) -> None:
        ASKED.append(self.path)
        data, status, headers = b"", 200, {}
        if self.path.startswith("/ok"):
            picture = io.BytesIO()
            Image.new("RGB", (8, 6)).save(picture, "PNG")
            data = picture.getvalue()
        elif self.path == "/moved.png":
            status, headers = 302, {"Location": "/ok-moved.png"}
        elif self.path == "/away.png":
            status, headers = 302, {"Location": "http://169.254.169.254/secret"}
        elif self.path == "/nowhere.png":
            status, headers = 302, {"Location": "http://[::1"}
        elif self.path == "/page.png":
            data = b"\n<!DOCTYPE html><html>Log in</html>"
        elif self.path.startswith("/down"):
            status = 503
        elif self.path == "/empty.png":
            pass
        elif self.path.startswith("/drip"):
            self.drip()
            return
        elif self.path == "/round.png":
            status, headers = 302, {"Location": "/round.png"}
        elif self.path == "/tired.png" and ASKED.count("/tired.png") < 3:
            status = 503
        elif self.path == "/tired.png":
            data = b"rested"
        else:
            status = 404
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    ASKED.clear()
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_file_is_fetched_once(server: str) -> None:
    allowed = Downloads(("127.0.0.1",), private=True)
    first = allowed.path(f"{server}/ok.png")
    assert allowed.path(f"{server}/ok.png") == first and ASKED == ["/ok.png"]
    assert Path(first).read_bytes()[:4] == b"\x89PNG"
    assert Path(allowed.path(f"{server}/moved.png")).read_bytes()[:4] == b"\x89PNG"
    assert Path(allowed.path(f"{server}/tired.png")).read_bytes() == b"rested" and ASKED.count("/tired.png") == 3


@pytest.mark.parametrize(
    ("hosts", "private", "path", "reason"),
    [
        (("example.org",), True, "/ok.png", "unsupported_media"),
        (("*",), False, "/ok.png", "unsupported_media"),
        (("127.0.0.1",), True, "/away.png", "unsupported_media"),
        (("*",), True, "/none.png", "missing_file"),
        (("*",), True, "/round.png", "unreadable_file"),
    ],
)
def test_what_may_not_or_cannot_be_fetched_is_a_reject(
    hosts: tuple[str, ...], private: bool, path: str, reason: str, server: str
) -> None:
    with pytest.raises(Reject) as found:
        Downloads(hosts, private).path(server + path)
    assert found.value.reason == reason
    assert bool(ASKED) == (hosts != ("example.org",) and private)


def test_a_file_that_is_too_large_leaves_nothing(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(downloads, "MOST_BYTES", 10)
    with pytest.raises(Reject, match="more than 10"):
        Downloads(("*",), True).path(f"{server}/ok.png")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_rows_name_pictures_by_address(server: str, tmp_path: Path, options: Callable[..., Any]) -> None:
    turns = [{"role": "user", "content": f"<image>See {server}/text.png"}, {"role": "assistant", "content": "A cup."}]
    part = [{"type": "image_url", "image_url": {"url": f"{server}/ok2.png"}}, {"type": "text", "text": "?"}]
    rows = [
        {"messages": turns, "images": [f"{server}/ok1.png"]},
        {"messages": [{"role": "user", "content": part}, turns[1]]},
        {"messages": turns, "images": [f"{server}/none.png"]},
        {"messages": turns, "images": ["http://other.example/a.png"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = open_samples(path, download=["127.0.0.1"], download_private=True)
    manifest = ingest(samples, IngestConfig(), options(tmp_path / "out", max_reject_rate=1.0))
    assert manifest is not None and manifest.totals["rows_written"] == 2
    assert [each["reason"] for each in read_rejects(tmp_path / "out")] == ["missing_file", "unsupported_media"]
    assert "/text.png" not in ASKED and ASKED.count("/ok1.png") == 1
    plain = open_samples(path)
    assert {getattr(row, "reason", None) for row in plain.read(0, 4)} == {"unsupported_media"}


def test_no_meta_file_opens_the_network(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"file_name": "rows.jsonl", "download": ["*"]}}))
    with pytest.raises(InputError, match="unknown key 'download'"):
        open_samples(tmp_path / "meta.json")


@pytest.mark.parametrize("path", ["/drip-header.png", "/drip-body.png"])
def test_a_host_that_drips_for_ever_is_left(server: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_LONGEST", 0.3)
    with pytest.raises(Reject, match="not there after") as caught:
        Downloads(("127.0.0.1",), private=True).path(server + path)
    assert caught.value.reason == "unreadable_file"


def test_a_redirect_to_no_address_and_an_address_that_is_none_are_rejects(server: str) -> None:
    fetch = Downloads(("127.0.0.1",), private=True).path
    for url in (
        f"{server}/nowhere.png",
        "http://[::1/a.png",
        "http://127.0.0.1:99999999/a.png",
        f"{server}/\ud800.png",
    ):
        with pytest.raises(Reject):
            fetch(url)


def test_a_name_that_is_not_ascii_is_asked_for_as_browsers_do(server: str) -> None:
    path = Downloads(("127.0.0.1",), private=True).path(f"{server}/ok-{'é' * 99}.png")
    assert Path(path).exists() and ASKED[-1] == f"/ok-{'%C3%A9' * 99}.png"


def test_a_named_host_that_gives_nothing_any_more_stops_the_run(server: str) -> None:
    fetch = Downloads(("127.0.0.1",), private=True).path
    for turn in range(2):
        for number in range(downloads._PATIENCE - 1):
            with pytest.raises(Reject, match="status 503, 3 times"):
                fetch(f"{server}/down-{turn}-{number}.png")
        fetch(f"{server}/ok-{turn}.png")  # from here they are counted anew
    for number in range(downloads._PATIENCE - 1):
        with pytest.raises(Reject):
            fetch(f"{server}/down-{number}.png")
    with pytest.raises(InputError, match=r"127\.0\.0\.1 \(`download`\) gave nothing for 8 files in a row"):
        fetch(f"{server}/down.png")
    for number in range(downloads._PATIENCE - 1):  # other workers' count, too
        with pytest.raises(Reject):
            fetch(f"{server}/down-{number}.png")
    last = f"from vlm_prep.media.downloads import Downloads as D; D(('127.0.0.1',), True).path('{server}/down-x.png')"
    done = subprocess.run([sys.executable, "-c", last], capture_output=True, text=True, timeout=60)
    assert "gave nothing for 8 files in a row" in done.stderr, done.stderr
    anyone = Downloads(("*",), private=True)  # of the whole network some are gone for ever
    for number in range(3 * downloads._PATIENCE):
        with pytest.raises(Reject):
            anyone.path(f"{server}/down-any-{number}.png")


@pytest.mark.parametrize(("path", "reason"), [("/empty.png", "empty_file"), ("/page.png", "unreadable_file")])
def test_what_is_no_file_is_asked_for_again_another_time(path: str, reason: str, server: str, tmp_path: Path) -> None:
    fetch = Downloads(("127.0.0.1",), private=True).path
    for _ in range(2):
        with pytest.raises(Reject) as caught:
            fetch(server + path)
        assert caught.value.reason == reason and str(tmp_path) not in caught.value.message
    assert [path, path] == ASKED


def test_a_blank_in_an_address_is_asked_for_as_browsers_do(server: str) -> None:
    Downloads(("127.0.0.1",), private=True).path(f"{server}/ok a.png")
    assert ASKED == ["/ok%20a.png"]


def test_what_is_fetched_is_not_outside_of_what_was_named(server: str, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A cup."}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "images": [f"{server}/ok1.png"]}))
    (sample,) = open_samples(tmp_path / "rows.jsonl", download=["127.0.0.1"], download_private=True).read(0, 1)
    assert isinstance(sample, Sample) and sample.media[0].notes == ()
