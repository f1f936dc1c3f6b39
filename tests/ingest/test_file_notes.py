"""What of a whole file is read in another form than the usual ones is counted, a row at a time, and said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from vlm_prep.core.records import Sample
from vlm_prep.core.settings import IngestConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.report.statistics import collect, render

ROWS = [{"messages": [{"role": "user", "content": f"ä {n}"}, {"role": "assistant", "content": "é"}]} for n in range(3)]
ARRAY = json.dumps(ROWS, ensure_ascii=False)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
LENIENT = {"lenient_json": True}
PYTHON = {"read_keyed", "read_lenient", "read_lenient_file"}

FILES: dict[str, tuple[bytes, dict[str, Any], set[str]]] = {
    "lines": (LINES.encode(), {}, set()),
    "lines with a switch they do not need": (LINES.encode(), LENIENT, set()),
    "array with a switch it does not need": (ARRAY.encode(), LENIENT, set()),
    "indented array": (json.dumps(ROWS, indent=1).encode(), LENIENT, set()),
    "compressed": (gzip.compress(LINES.encode()), {}, set()),
    "with a mark": (LINES.encode("utf-8-sig"), {"encoding": "utf-8-sig"}, set()),
    "utf-16": (ARRAY.encode("utf-16"), {}, {"read_encoding"}),
    "utf-16 compressed": (gzip.compress(LINES.encode("utf-16")), {}, {"read_encoding"}),
    "latin-1": (LINES.encode("latin-1"), {"encoding": "latin-1"}, {"read_encoding"}),
    "objects": ("\n".join(json.dumps(row, indent=2) for row in ROWS).encode(), {}, {"read_objects"}),
    "keyed": (json.dumps({str(n): row for n, row in enumerate(ROWS)}).encode(), {}, {"read_keyed"}),
    "wrapped": (json.dumps({"data": ROWS}).encode(), {"rows_key": "data"}, {"read_wrapped"}),
    "carriage returns": (LINES.replace("\n", "\r").encode(), {}, {"read_cr_lines"}),
    "comment before": (f"// ä\n{ARRAY}".encode(), LENIENT, {"read_lenient_file"}),
    "comment between": (ARRAY.replace("]}, {", "]}, # ,\n{").encode(), LENIENT, {"read_lenient_file"}),
    "last comma": (f"{ARRAY[:-1]},]".encode(), LENIENT, {"read_lenient_file"}),
    "lines of comments": (f"# ä\n{LINES}".encode(), LENIENT, {"read_lenient_file"}),
    "keys in single quotes": (repr({"a": ROWS[0], "b": ROWS[1], "c": ROWS[2]}).encode(), LENIENT, PYTHON),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_say_how_their_file_was_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))
    data, options, expected = FILES[name]
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    samples = open_samples(path, **options)
    rows = list(samples.read(0, len(samples)))
    assert len(rows) == len(ROWS)
    for row in rows:
        assert isinstance(row, Sample) and set(row.notes) == expected


def test_statistics_count_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_PREP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": ROWS}), encoding="utf-16")
    ingest(open_samples(path, rows_key="data"), IngestConfig(), RunOptions(out=tmp_path / "out", workers=0))
    said = render(collect(tmp_path / "out"))
    assert "3 rows of files in another encoding than UTF-8" in said
    assert "3 rows of files that are one object, with the rows under a key (rows_key)" in said
