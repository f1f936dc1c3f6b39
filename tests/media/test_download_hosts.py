"""A row's address leads to hosts of the public network that the user named, whatever names and redirects say."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from vlm_prep.core.errors import Reject
from vlm_prep.media.downloads import Downloads
from vlm_prep.media.public_hosts import is_public

PUBLIC = "8.8.8.8"
ASKED: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", unquote(self.path[4:]))
            self.end_headers()
            return
        picture = io.BytesIO()
        Image.new("RGB", (8, 6)).save(picture, "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(picture.getvalue())))
        self.end_headers()
        self.wfile.write(picture.getvalue())


@dataclass
class Net:
    """A network of one machine: what names mean, in turn, and which addresses were connected to."""

    port: int
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    """Of each name the addresses of one answer after another; the last one stays."""
    connected: list[str] = field(default_factory=list)

    def url(self, host: str, path: str = "/a.png") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """A server on 127.0.0.1, which is also what answers at PUBLIC, and a resolver of the test's own names."""
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    ASKED.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found, resolve, connect = Net(server.server_address[1]), socket.getaddrinfo, socket.create_connection

    def resolved(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
        answers = found.names.get(host)
        if answers is None:
            return resolve(host, port, *args, **more)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [each for address in answer for each in resolve(address, port, *args, **more)]

    def connected(address: tuple[str, int], *args: Any, **more: Any) -> socket.socket:
        found.connected.append(address[0])
        return connect(("127.0.0.1" if address[0] == PUBLIC else address[0], address[1]), *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "create_connection", connected)
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def refused(allowed: Downloads, url: str) -> str:
    with pytest.raises(Reject) as caught:
        allowed.path(url)
    assert caught.value.reason == "unsupported_media", caught.value.message
    return str(caught.value.message)


def test_the_connection_goes_to_the_address_that_was_looked_at(net: Net) -> None:
    net.names["a.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert Path(Downloads(("*",)).path(net.url("a.example"))).exists()
    assert net.connected == [PUBLIC] and net.names["a.example"] == [["127.0.0.1"]]
    refused(Downloads(("*",)), net.url("a.example", "/b.png"))
    assert net.connected == [PUBLIC] and ASKED == ["/a.png"]


def test_a_name_is_looked_at_again_after_each_redirect(net: Net) -> None:
    net.names["a.example"] = [[PUBLIC], ["127.0.0.1"]]
    message = refused(Downloads(("*",)), net.url("a.example", f"/to/{net.url('a.example')}"))
    assert "a.example is 127.0.0.1, of a private network" in message
    assert net.connected == [PUBLIC] and len(ASKED) == 1


def test_a_name_with_a_private_address_among_public_ones_is_refused(net: Net) -> None:
    net.names["a.example"] = [[PUBLIC, "10.0.0.1"]]
    assert "10.0.0.1" in refused(Downloads(("*",)), net.url("a.example"))
    assert net.connected == []


INSIDE = [
    *("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "0", "0.0.0.0", "10.1.2.3"),
    *("172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.0.8"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"),
    *("[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[fec0::1]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]"),
]


@pytest.mark.parametrize("host", INSIDE)
def test_private_addresses_in_any_form_are_not_asked(host: str, net: Net) -> None:
    net.names["a.example"] = [[PUBLIC]]
    assert "of a private network" in refused(Downloads(("*",)), net.url(host))
    there = net.url("a.example", f"/to/{net.url(host)}")
    assert "of a private network" in refused(Downloads(("*",)), there)
    assert net.connected == [PUBLIC] and len(ASKED) == 1


@pytest.mark.parametrize(
    "place",
    ["file:///etc/passwd", "ftp://a.example/a", "//127.0.0.1/a", "http://a.example@127.0.0.1/a", "gopher://[::1]/"],
)
def test_redirects_lead_nowhere_else(place: str, net: Net) -> None:
    net.names["a.example"] = [[PUBLIC]]
    refused(Downloads(("*",)), net.url("a.example", f"/to/{place}"))
    assert net.connected == [PUBLIC] and len(ASKED) == 1


def test_hosts_that_are_not_named_are_not_asked_after_a_redirect(net: Net) -> None:
    net.names["a.example"] = net.names["b.example"] = [[PUBLIC]]
    place = net.url("a.example", f"/to/{net.url('b.example')}")
    assert "b.example is not among" in refused(Downloads(("a.example",)), place)
    assert len(ASKED) == 1
    assert Path(Downloads(("a.example", "b.example")).path(place)).exists()


def test_a_fetched_file_is_there_for_runs_alone_that_may_fetch_it(net: Net) -> None:
    net.names["a.example"] = net.names["b.example"] = [[PUBLIC]]
    place, inside = net.url("a.example", f"/to/{net.url('b.example')}"), net.url("127.0.0.1")
    both, own = Downloads(("a.example", "b.example")), Downloads(("*",), private=True)
    for allowed, url, hosts in ((both, place, ("*.example", "c.org")), (own, inside, ("127.*",))):
        fetched = allowed.path(url)
        asked = len(ASKED)
        assert Downloads(hosts, allowed.private).path(url) == fetched and len(ASKED) == asked
    for stricter, url in (
        (Downloads(("a.example",)), place),
        (Downloads(("b.example",)), place),
        (Downloads(("c.example",), True), inside),
        (Downloads(("*",)), inside),
    ):
        refused(stricter, url)


def test_the_next_address_of_a_host_is_asked_where_one_does_not_answer(net: Net) -> None:
    net.names["a.example"] = [["127.0.0.2", "127.0.0.1"]]
    assert Path(Downloads(("*",), private=True).path(net.url("a.example"))).exists()
    assert net.connected == ["127.0.0.2", "127.0.0.1"]


def test_no_proxy_of_the_environment_is_asked(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.names["a.example"] = [[PUBLIC]]
    with contextlib.closing(socket.socket()) as line:
        line.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{line.getsockname()[1]}")
        assert Path(Downloads(("*",)).path(net.url("a.example"))).exists()
    assert net.connected == [PUBLIC]


@pytest.mark.parametrize("text", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(text)
