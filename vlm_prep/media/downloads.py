"""Media by http(s), where the user names the hosts: `download=images.example.org`.

A file is fetched once into the cache (`$VLM_PREP_CACHE/downloads`, by its address) and read from there, by runs that
may ask the hosts it came from. Hosts that are not on the list, and addresses of private networks (unless
`download_private`), are rejects, after every redirect, too; the connection goes to the very address that was looked at,
so that a name cannot change between the look and the use, and through no proxy of the environment.
A file may have 1 GiB; a host may be silent for 30 s, and has 4 minutes in all, however slowly it drips; an error that
may pass (5xx, 429, a broken line) is tried again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import http.client
import os
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.remote import cache_folder
from vlm_prep.media.public_hosts import is_public

MOST_BYTES: Final = 1 << 30
_TIMEOUT: Final = 30.0
_LONGEST: Final = 240.0
_TRIES: Final = 3
_REDIRECTS: Final = 5
_PATIENCE: Final = 8
"""Files of one host in a row that may be there another time, after all tries, of all processes together."""
_SILENT: Final = ".silent"
"""Beside the files: for each host that gives nothing a file with a byte for each file in a row."""
_FORGOTTEN: Final = 600.0
"""Seconds after which a host that was silent is counted anew, and is another run's."""
_HTML: Final = (b"<!doctype html", b"<html")
_ASCII: Final = "".join(map(chr, range(33, 127)))
_OTHERS: Final = re.compile(r"[^A-Za-z0-9._-]")
_PIECE: Final = 1 << 20
_MOVED: Final = frozenset((301, 302, 303, 307, 308))
_HOPS: Final = ".hosts"
"""Beside a fetched file: the hosts that were asked for it, one a line, and of private networks a line more."""
_PRIVATE: Final = "(private)"


def downloads_folder() -> Path:
    """Return the folder that fetched files lie in."""
    return cache_folder() / "downloads"


@dataclass(frozen=True)
class Downloads:
    """What may be fetched.

    Args:
        hosts: names, or patterns such as `*.example.org`; `*` is any public host.
        private: whether addresses of private networks are asked, too.
    """

    hosts: tuple[str, ...]
    private: bool = False

    def path(self, url: str) -> str:
        """Return the local path of a file, fetched unless it is there.

        Raises:
            Reject: unsupported_media, it may not be fetched; missing_file, empty_file or unreadable_file, it cannot be.
            InputError: its host gives nothing any more.
        """
        try:
            name = os.path.basename(urlsplit(url).path)
        except ValueError as error:
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: no address of http: {error}") from error
        name = _OTHERS.sub("_", name)[-100:].lstrip(".") or "media"
        target = downloads_folder() / hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:32] / name
        if not target.exists() or not self._may_have(target.with_name(_HOPS)):
            self._fetch(url, target)
        return str(target)

    def _may_have(self, hops: Path) -> bool:
        """Whether a file that is there could have been fetched by this run."""
        try:
            asked = hops.read_text().splitlines()
        except FileNotFoundError:
            return False
        return all(self.private if each == _PRIVATE else self._may_ask(each) for each in asked)

    def _may_ask(self, host: str) -> bool:
        return any(fnmatch.fnmatchcase(host.lower(), each.lower()) for each in self.hosts)

    def _fetch(self, url: str, target: Path) -> None:
        host = (urlsplit(url).hostname or "").lower()
        end = time.monotonic() + _LONGEST
        for attempt in range(_TRIES):
            try:
                self._try(url, target, end)
            except (ValueError, UnicodeError) as error:
                raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: no address of http: {error}") from error
            except Reject:
                _silent(host).unlink(missing_ok=True)  # it answers
                raise
            except _MayPassError as error:
                if time.monotonic() > end:
                    raise self._given_up(host, f"{url}: not there after {_LONGEST:.0f} s") from error
                if attempt + 1 == _TRIES:
                    raise self._given_up(host, f"{url}: {error}, {_TRIES} times") from error
                time.sleep(0.5 * 2**attempt)
            else:
                _silent(host).unlink(missing_ok=True)
                return

    def _given_up(self, host: str, what: str) -> Exception:
        """Return the reject of a file; where its host gave nothing several times in a row, what stops the run.

        With `*` many hosts are asked, of which some are gone for ever.
        """
        is_named = any(each != "*" and fnmatch.fnmatchcase(host, each.lower()) for each in self.hosts)
        if not is_named or _in_a_row(host) < _PATIENCE:
            return Reject(RejectReason.UNREADABLE_FILE, what)
        _silent(host).unlink(missing_ok=True)
        return InputError(
            f"{host} (`download`) gave nothing for {_PATIENCE} files in a row; the last: {what}",
            "Start again when it answers: what was fetched is kept.",
        )

    def _try(self, url: str, target: Path, end: float) -> None:
        asked, hops = url, list[str]()
        for _ in range(_REDIRECTS + 1):
            connection, path = self._connect(url)
            hops += [connection.host, *([] if connection.is_public else [_PRIVATE])]
            over = threading.Timer(max(0.0, end - time.monotonic()), connection.end)
            over.daemon = True
            over.start()
            try:
                connection.request("GET", path, headers={"User-Agent": "vlm-prep", "Accept-Encoding": "identity"})
                answer = connection.getresponse()
                if answer.status in _MOVED and (place := answer.headers.get("Location")):
                    url = urljoin(url, place)
                    continue
                _require_found(url, answer.status)
                _write(asked, answer, target, connection, "".join(f"{each}\n" for each in hops))
                return
            except (OSError, http.client.HTTPException) as error:
                raise _MayPassError(f"{type(error).__name__}: {error}") from error
            finally:
                over.cancel()
                connection.close()
        raise Reject(RejectReason.UNREADABLE_FILE, f"{asked}: more than {_REDIRECTS} redirects")

    def _connect(self, url: str) -> tuple[_Plain, str]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: no address of http")
        if not self._may_ask(host):
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: the host {host} is not among `download`")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _MayPassError(f"no address of {host}: {error}") from error
        except ValueError as error:
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: {error}") from error
        addresses = [str(each[4][0]) for each in found]
        inside = [each for each in addresses if not is_public(each)]
        if inside and not self.private:
            what = f"{host} is {inside[0]}, of a private network (`download_private=true`)"
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: {what}")
        kind = _Plain if parts.scheme == "http" else _Secure
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not path.isprintable():
            raise Reject(RejectReason.UNSUPPORTED_MEDIA, f"{url}: no address of http")
        return kind(host, port, addresses, is_public=not inside), quote(path, safe=_ASCII)


def _silent(host: str) -> Path:
    return downloads_folder() / _SILENT / _OTHERS.sub("_", host)


def _in_a_row(host: str) -> int:
    """Count one more file of a host that was given up; return how many there are in a row."""
    path = _silent(host)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _FORGOTTEN:
            path.unlink()
    with open(path, "ab", buffering=0) as file:
        file.write(b".")  # at the end, whoever else writes there
        return file.tell()


class _MayPassError(Exception):
    """What another try may not meet."""


class _Plain(http.client.HTTPConnection):
    """A connection to the first of the addresses that were looked at which answers."""

    def __init__(self, host: str, port: int, addresses: Sequence[str], *, is_public: bool) -> None:
        super().__init__(host, port, timeout=_TIMEOUT)
        self._addresses, self.is_public = addresses, is_public
        self._line: socket.socket | None = None  # `sock` is taken away once the file has no stated length
        self.is_over = False

    def end(self) -> None:
        """Break the line, whatever is waited for."""
        self.is_over = True
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        """Connect to an address, not to what the name means now.

        Raises:
            OSError: none answers.
        """
        for address in self._addresses[:-1]:
            with contextlib.suppress(OSError):
                self._have(socket.create_connection((address, self.port), self.timeout))
                return
        self._have(socket.create_connection((self._addresses[-1], self.port), self.timeout))

    def _have(self, line: socket.socket) -> None:
        self.sock = self._line = line
        if self.is_over:
            self.end()


class _Secure(_Plain):
    """The same with TLS, for the host's name."""

    default_port = 443

    def connect(self) -> None:
        """Connect, and have the host show that it is the one."""
        super().connect()
        context = ssl.create_default_context()
        line = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self._have(line)
        line.do_handshake()


def _require_found(url: str, status: int) -> None:
    if status == 200:
        return
    if status == 429 or status >= 500:
        raise _MayPassError(f"status {status}")
    reason = RejectReason.MISSING_FILE if status in (404, 410) else RejectReason.UNREADABLE_FILE
    raise Reject(reason, f"{url}: status {status}")


def _write(url: str, answer: http.client.HTTPResponse, target: Path, connection: _Plain, hops: str) -> None:
    stated = answer.headers.get("Content-Length")
    if stated and stated.isdecimal() and int(stated) > MOST_BYTES:
        raise Reject(RejectReason.UNREADABLE_FILE, f"{url}: {int(stated):,} bytes, more than {MOST_BYTES:,}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        temporary = Path(folder) / "file"
        size = 0
        with open(temporary, "wb") as file:
            while piece := answer.read(_PIECE):
                size += len(piece)
                if size > MOST_BYTES:
                    raise Reject(RejectReason.UNREADABLE_FILE, f"{url}: more than {MOST_BYTES:,} bytes")
                file.write(piece)
        if connection.is_over:  # what has no stated length would end here as if it were whole
            raise _MayPassError("the time is over")
        if stated and stated.isdecimal() and size != int(stated):
            raise _MayPassError(f"{size:,} of {int(stated):,} bytes came")
        with open(temporary, "rb") as file:
            head = file.read(64)
        if not head:  # not kept, nor is a page that says what is wrong: another time the file may be there
            raise Reject(RejectReason.EMPTY_FILE, f"{url}: zero bytes")
        if head.lstrip().lower().startswith(_HTML):
            raise Reject(RejectReason.UNREADABLE_FILE, f"{url}: is a page of HTML, such as a server's error")
        (Path(folder) / _HOPS).write_text(hops)
        os.replace(Path(folder) / _HOPS, target.with_name(_HOPS))
        os.replace(temporary, target)
