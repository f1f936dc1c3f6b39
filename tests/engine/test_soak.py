"""A small soak: `make soak` runs the same script at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).resolve().parents[2] / "scripts" / "soak.py"


def test_an_ingest_survives_a_small_soak(tmp_path: Path) -> None:
    line = [sys.executable, str(SOAK), "--stages", "ingest", "--kills", "3", "--poison", "0", "--damage", "1"]
    result = subprocess.run([*line, "--folder", str(tmp_path / "soak")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 different" in result.stdout
