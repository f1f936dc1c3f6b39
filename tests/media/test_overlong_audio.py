"""Clips that are longer than a processor takes: found by asking it, and never cut without a word."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.audio_limit import AudioLimit
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

Options = Callable[..., RunOptions]
RATE = 16000


class Cutting:
    """A part that takes `limit` samples; where it says so is not where one would look."""

    def __init__(self, limit: int, **attributes: int) -> None:
        self.limit = limit
        vars(self).update(attributes)

    def __call__(self, waves: list[np.ndarray], max_length: int = 77) -> dict[str, Any]:
        return {"features": np.pad(waves[0][: self.limit], (0, 9))}


@pytest.mark.parametrize(
    ("limit", "attributes"),
    [(30 * RATE, {"n_samples": 30 * RATE}), (30 * RATE, {"chunk_length": 30}), (30 * RATE, {"n_samples": 60 * RATE}),
     (123_457, {}), (29 * RATE, {"n_samples": 30 * RATE})],
)  # fmt: skip
def test_the_limit_is_found_wherever_it_is_written(limit: int, attributes: dict[str, int]) -> None:
    part = Cutting(limit, **attributes)
    found = AudioLimit(part, lambda wave: part([wave]), RATE)
    assert found.below(RATE) is None
    assert found.below(limit) is None
    assert found.below(limit + 1) == limit
    assert found.known() == limit


def test_a_part_that_takes_all_has_no_limit() -> None:
    part = Cutting(10**9)
    assert AudioLimit(part, lambda wave: part([wave]), RATE).known() is None


@pytest.fixture(scope="module")
def gemma(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Gemma 4, which takes 30 s."""
    folder = tmp_path_factory.mktemp("gemma")
    script = str(kit / "processors" / "assemble.py")
    subprocess.run([sys.executable, script, str(folder), "gemma4"], check=True, capture_output=True)
    return str(folder / "gemma4")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 1 s, 30 s, one sample more than 30 s, and 70 s; the last beside another, between words."""
    folder = tmp_path_factory.mktemp("rows")
    wave = np.random.default_rng(0).normal(0, 0.1, 70 * RATE).astype(np.float32)
    for name, samples in (("1", RATE), ("30", 30 * RATE), ("30+", 30 * RATE + 1), ("70", 70 * RATE)):
        soundfile.write(folder / f"{name}.wav", wave[:samples], RATE)
    lines = [(["1.wav"], "<audio>x"), (["30.wav"], "<audio>x"), (["30+.wav"], "<audio>x")]
    lines.append((["70.wav", "1.wav"], "a<audio>b<audio>c"))
    (folder / "rows.jsonl").write_text(
        "\n".join(
            json.dumps({"audios": audios, "messages": [_turn("user", text), _turn("assistant", "so")]})
            for audios, text in lines
        )
    )
    return folder / "rows.jsonl"


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def run(rows: Path, gemma: str, out: Path, options: Options, **settings: Any) -> tuple[Any, list[Any]]:
    config = TokenizeConfig(verify_fraction=1.0, **settings)
    manifest = tokenize(open_samples(rows), gemma, config, options(out, max_reject_rate=1.0))
    assert manifest is not None
    store = Store(out)
    return manifest.totals, [store.row(number) for number in range(len(store))]


def samples_of(row: Any) -> list[int]:
    return [int(media["samples"]) for media in row["media"]]


def test_a_clip_that_the_processor_would_cut_is_rejected_by_default(
    rows: Path, gemma: str, tmp_path: Path, options: Options
) -> None:
    totals, written = run(rows, gemma, tmp_path / "out", options)
    assert totals["rejects"] == {"audio_too_long": 2}
    assert [samples_of(row) for row in written] == [[RATE], [30 * RATE]]
    assert "takes 30 s" in read_rejects(tmp_path / "out")[1]["message"]


@pytest.mark.parametrize("media", ["encoded", "pixels"])
def test_a_clip_is_cut_or_split_where_that_is_asked_for_and_proven(
    rows: Path, gemma: str, tmp_path: Path, options: Options, media: str
) -> None:
    totals, written = run(rows, gemma, tmp_path / "cut", options, overlong_audio="cut", media=media)
    assert totals["rows_written"] == 4 and totals["audio_cut"] == 2
    assert samples_of(written[3]) == [30 * RATE, RATE]
    totals, written = run(rows, gemma, tmp_path / "split", options, overlong_audio="split", media=media)
    assert totals["rows_written"] == 4 and totals["audio_split"] == 2
    pieces = samples_of(written[3])
    assert len(pieces) == 4 and sum(pieces[:3]) == 70 * RATE and max(pieces) <= 30 * RATE
    content = json.loads(written[3]["conversation"])["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "audio", "audio", "audio", "text", "audio", "text"]


@pytest.mark.parametrize("policy", ["cut", "split"])
def test_what_to_do_with_clips_is_not_asked_of_a_processor_without_sound(policy: Any, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    options = RunOptions(out=tmp_path / "out", workers=0)
    with pytest.raises(ProcessorError, match=f"`overlong_audio={policy}` changes nothing: .*takes no sound"):
        tokenize(
            open_samples(tmp_path / "rows.jsonl"),
            "builtin:qwen2.5-vl-mini",
            TokenizeConfig(overlong_audio=policy),
            options,
        )
