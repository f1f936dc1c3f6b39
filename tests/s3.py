"""A real S3 server in a process of its own, on this machine."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Server:
    """A running S3 server and what it logs: a line for each request."""

    log: Path
    files: Any
    """An fsspec file system of it."""
    address: str

    def seen(self, pattern: str) -> None:
        """Wait for a request."""
        wait_for_line(self.log, pattern)

    def deny(self) -> None:
        """Refuse this process's key from now on."""
        self._check_keys_after("0")

    def allow(self) -> None:
        """Take any key again."""
        self._check_keys_after("inf")

    def _check_keys_after(self, requests: str) -> None:
        kind = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(f"{self.address}/moto-api/reset-auth", requests.encode(), kind)
        urllib.request.urlopen(asked).close()


def wait_for_line(log: Path, pattern: str) -> str:
    """Return what is found once a line of the log has it."""
    while True:
        if found := re.search(pattern, log.read_text()):
            return found[0]
        time.sleep(0.01)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start a server, which this process and its children then use; its log is in `folder`."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'vlm-prep[dev]'")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'vlm-prep[s3]'")
    import fsspec

    line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(line, stderr=file, stdout=subprocess.DEVNULL)
    try:
        address = wait_for_line(log, r"http://127\.0\.0\.1:\d+")
        names = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_DEFAULT_REGION": "us-east-1"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**names, "AWS_ENDPOINT_URL": address}.items():
                patch.setenv(name, value)
            # instances are kept by their arguments, and would go on asking the server of another module
            s3fs.S3FileSystem.clear_instance_cache()
            yield Server(log, fsspec.filesystem("s3", use_listings_cache=False), address)
    finally:
        process.kill()
        process.wait()
