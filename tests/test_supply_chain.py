"""A release is made of its sources alone, and of packages whose licences are stated."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from supply_chain import audited

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "supply_chain.py"


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


def test_the_hashed_constraints_pin_the_same_versions_and_name_no_index() -> None:
    hashed = (ROOT / "configs" / "constraints-hashed.txt").read_text()
    plain = (ROOT / "configs" / "constraints.txt").read_text()
    pin = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
    found, meant = (
        {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pin.findall(each)}
        for each in (hashed, plain)
    )
    assert found == meant
    assert "://" not in hashed and "--index" not in hashed
    blocks = re.split(r"^(?=[A-Za-z0-9])", hashed, flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


def test_versions_that_could_not_be_looked_up_are_no_sound_ones() -> None:
    """pip-audit says "No known vulnerabilities found" where its index knows none of the packages."""
    sound = {"name": "a", "version": "1", "vulns": []}
    assert audited([sound]) == ""
    assert audited([sound, {"name": "b", "skip_reason": "not found"}]).startswith("not audited: 1 of 2")
    assert audited([]).startswith("not audited")
    assert "a 1 (CVE-1)" in audited([{**sound, "vulns": [{"id": "CVE-1"}]}])
