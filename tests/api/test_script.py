"""A script as people write it: no `if __name__ == "__main__"`, places as text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
print("begins", flush=True)
import vlm_prep as vp

run = vp.RunOptions(out="out", workers=2, progress=False, say=lambda line: None)
manifest = vp.ingest(vp.open_samples("rows.jsonl"), vp.IngestConfig(), run)
print(manifest.totals["rows_written"], len(vp.read_rejects("out")), vp.verify("out").sound)
"""


def test_a_script_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 5)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (["begins", "5 0 True"], "", 0)
