"""A release is made of its sources alone, and of packages whose licences are stated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "supply_chain.py"


def run(what: str) -> str:
    line = [sys.executable, str(SCRIPT), what]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


def test_the_wheel_is_the_same_bytes_twice() -> None:
    digests = {line.split()[-1] for line in run("wheel").splitlines()}
    assert len(digests) == 1


def test_every_pinned_package_states_its_licence() -> None:
    lines = run("licences").splitlines()
    assert len(lines) > 50
    assert [line for line in lines if line.endswith("not stated")] == []
