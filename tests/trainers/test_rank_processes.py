"""The processes of check-trainer's ranks end with the command, also when it is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import os, signal
from vlm_prep.core.own_process import without_main
from vlm_prep.trainers.ranks import rank_processes

with rank_processes(2) as pool, without_main():
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_ranks_end_with_a_killed_command(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    rank, until = Path("/proc", done.stdout.strip()), time.monotonic() + 30
    while rank.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert rank.name.isdecimal() and not rank.exists()
