"""Labels in whole runs: accounts of rows that give several documents, weights from the row to the batch, the audit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_styles import STYLES
from turns import assistant, user

from vlm_prep.builtin import builtin_processor
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.report import statistics as stats
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PackedCollate, PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.store import check_store

PLAIN = "builtin:qwen2.5-vl-mini"


def silent(rows: int, tokens: int, rejects: int) -> None:
    """Nobody watches."""


def write(path: Path, rows: list[list[dict[str, Any]]]) -> Path:
    path.write_text("\n".join(json.dumps({"messages": messages}) for messages in rows))
    return path


THINKS_TWICE = [
    user("A?"),
    assistant("a", reasoning_content="hm"),
    user("B?"),
    assistant("b", reasoning_content="ho"),
]
THINKS_ONCE = THINKS_TWICE[:2]
NEVER_TRAINED = [user("A?"), assistant("a", train=False)]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in processor with a template that drops the reasoning of earlier turns."""
    folder = tmp_path_factory.mktemp("processor") / "thinker"
    shutil.copytree(builtin_processor("qwen2.5-vl-mini"), folder)
    (folder / "chat_template.jinja").write_text(STYLES["qwen3"].template)
    return str(folder)


def test_rows_that_give_several_documents_keep_the_accounts(
    tmp_path: Path, thinker: str, options: Any, tree: Any
) -> None:
    source = write(tmp_path / "rows.jsonl", [THINKS_TWICE, THINKS_ONCE, NEVER_TRAINED] * 100)
    config = TokenizeConfig(rewritten_history="split")
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        manifest = tokenize(open_samples(source), thinker, config, options(out, workers=workers, max_reject_rate=1.0))
        assert manifest
        totals = manifest.totals
        assert (totals["rows_in"], totals["rows_written"], totals["rows_rejected"]) == (300, 200, 100)
        assert totals["extra_documents"] == totals["datasets"]["rows"]["extra_documents"] == 100
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")
    store = Store(tmp_path / "out1")
    ids = [row["sample_id"] for row in store.rows()]
    assert ids[:4] == ["rows/0~1", "rows/0~2", "rows/1", "rows/3~1"]
    assert len(ids) == len(set(ids)) == 300
    assert check_store(tmp_path / "out1", thinker, 1.0, silent).sound
    assert store.manifest.proof["labels_found_twice"] >= 8
    assert "documents   300: some rows gave several" in stats.render(stats.collect(tmp_path / "out1"))
    pack(tmp_path / "out1", PackConfig(pack_length=256), options(tmp_path / "packed"))
    assert read_manifest(tmp_path / "packed").totals["rows_in"] == 300


def test_by_default_a_rewritten_history_is_a_reject_that_names_the_option(
    tmp_path: Path, thinker: str, options: Any
) -> None:
    source = write(tmp_path / "rows.jsonl", [THINKS_TWICE, THINKS_ONCE])
    out = tmp_path / "out"
    manifest = tokenize(open_samples(source), thinker, TokenizeConfig(), options(out, max_reject_rate=1.0))
    assert manifest
    assert manifest.totals["rejects"] == {"rewritten_history": 1}
    assert "extra_documents" not in manifest.totals


def test_weights_stream_from_the_row_to_the_batch(tmp_path: Path, options: Any) -> None:
    weighed = [user("A?"), assistant("a", weight=0.5), user("B?"), assistant("b")]
    source = write(tmp_path / "rows.jsonl", [weighed, [*THINKS_ONCE[:1], assistant("a")]])
    tokenize(open_samples(source), PLAIN, TokenizeConfig(loss_weights=True), options(tmp_path / "tok"))
    for row in Store(tmp_path / "tok").rows():
        assert row["loss_weights"].dtype == np.float32
        assert np.array_equal(row["loss_weights"] > 0, row["labels"] != -100)
    dataset = ShardDataset(tmp_path / "tok", shuffle=False)
    batch = PadCollate.for_store(dataset)([dataset[0], dataset[1]])
    assert batch["loss_weights"].dtype == torch.float32
    assert torch.equal(batch["loss_weights"] > 0, batch["labels"] != -100)
    assert set(batch["loss_weights"].unique().tolist()) == {0.0, 0.5, 1.0}
    for layout in ("ranks", "index"):
        out = tmp_path / layout
        pack(tmp_path / "tok", PackConfig(pack_length=256, layout=layout), options(out))
        packs = ShardDataset(out)
        for shift in (True, False):
            batch = PackedCollate.for_store(packs, shift=shift)([packs[0]])
            assert torch.equal(batch["loss_weights"] > 0, batch["labels"] != -100)
            assert batch["loss_weights"].sum() == 2 * 0.5 + 4 * 1.0


def test_a_store_without_weights_has_no_column_for_them(tokenized: Path, packed: Path) -> None:
    assert "loss_weights" not in Store(tokenized).shards[0].schema.names
    assert "loss_weights" not in Store(packed).shards[0].schema.names
    assert "loss_weights" not in ShardDataset(packed, pixels=False)[0]


def test_another_label_setting_is_another_run(tmp_path: Path, options: Any) -> None:
    source = write(tmp_path / "rows.jsonl", [[user("A?"), assistant("a"), user("B?"), assistant("b")]])
    made = [
        tokenize(open_samples(source), PLAIN, config, options(tmp_path / str(number)))
        for number, config in enumerate(
            [
                TokenizeConfig(),
                TokenizeConfig(train_on="all"),
                TokenizeConfig(train_end="last"),
                TokenizeConfig(train_reasoning=False),
                TokenizeConfig(train_tool_calls=False),
                TokenizeConfig(rewritten_history="mask"),
                TokenizeConfig(loss_weights=True),
            ]
        )
    ]
    prints = {each.fingerprint for each in made if each}
    assert len(prints) == 7


# --- what was changed is counted -----


def test_tools_written_as_text_and_developer_turns_are_counted(tmp_path: Path, options: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    rows = [
        [{"role": "developer", "content": "Be kind."}, user("A?"), assistant("a")],
        [user("A?"), assistant("", tool_calls=[call]), {"role": "tool", "content": "4"}, assistant("4")],
        [user("A?"), assistant("a")],
    ]
    out = tmp_path / "out"
    manifest = tokenize(open_samples(write(tmp_path / "rows.jsonl", rows)), PLAIN, TokenizeConfig(), options(out))
    assert manifest
    assert (manifest.totals["developer_as_system"], manifest.totals["tools_as_text"]) == (1, 1)
    first = next(iter(Store(out).rows()))
    assert json.loads(first["conversation"])["messages"][0]["role"] == "system"
    text = stats.render(stats.collect(out))
    assert "1 rows with tools or tool calls written as text" in text
    assert "1 rows with developer turns written as system turns" in text


# --- the labels command -----

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_an_audit_counts_by_dataset_and_role_and_is_sound_for_good_rows(tmp_path: Path, call: Command) -> None:
    source = write(tmp_path / "rows.jsonl", [[user("A?"), assistant("a b")]] * 2)
    result = call("labels", source, "-p", PLAIN, "--audit", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["sound"] is True
    assert found["rows"] == {"written": 2, "documents": 2, "rejected": 0}
    roles = found["datasets"]["rows"]
    assert roles["assistant"] == {"tokens": 6, "trained": 6, "share": 1.0}  # two words and the turn's end, twice
    assert roles["user"] == {"tokens": 4, "trained": 0, "share": 0.0}
    assert roles["template"]["trained"] == 0


def test_an_audit_that_finds_something_fails(tmp_path: Path, call: Command, thinker: str) -> None:
    source = write(tmp_path / "rows.jsonl", [[user("A?"), assistant("a")], NEVER_TRAINED, THINKS_TWICE])
    result = call("labels", source, "-p", thinker, "--audit")
    assert result.returncode == 1
    assert "rows with nothing trained: 1: rows/1" in result.stdout
    assert "2 rejected (1 no_supervised_tokens, 1 rewritten_history)" in result.stdout


def test_an_audit_finds_turns_that_do_not_close(tmp_path: Path, call: Command, thinker: str) -> None:
    (Path(thinker).parent / "open").mkdir(exist_ok=True)
    folder = Path(thinker).parent / "open" / "processor"
    shutil.copytree(thinker, folder)
    (folder / "chat_template.jinja").write_text(STYLES["last turn open"].template)
    source = write(tmp_path / "rows.jsonl", [[user("A?"), assistant("a"), user("B?"), assistant("b")]])
    result = call("labels", source, "-p", folder, "--audit")
    assert result.returncode == 1
    assert "turns whose end token is not trained: 1: rows/0 message 4" in result.stdout
    assert call("labels", source, "-p", folder, "--audit", "--train-end", "none").returncode == 0


def test_labels_reads_a_data_file_as_tokenize_does(tmp_path: Path, call: Command) -> None:
    row = {"talk": [{"who": "me", "what": "A?"}, {"who": "it", "what": "a"}]}
    (tmp_path / "odd.jsonl").write_text(json.dumps(row))
    result = call(
        "labels", tmp_path / "odd.jsonl", "-p", PLAIN, "--column", "messages=talk", "--tag", "role_tag=who",
        "--tag", "content_tag=what", "--tag", "user_tag=me", "--tag", "assistant_tag=it", "--train-end", "none",
        "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (shown,) = json.loads(result.stdout)
    assert [run["text"] for run in shown["runs"] if run["trained"]] == ["a"]


def test_all_text_of_split_rows_is_refused(tmp_path: Path, call: Command) -> None:
    source = write(tmp_path / "rows.jsonl", [THINKS_ONCE])
    result = call("labels", source, "-p", PLAIN, "--train-on", "all", "--rewritten-history", "split")
    assert result.returncode == 2
    assert "--rewritten-history reject or --rewritten-history mask" in result.stderr


def test_doctor_prints_what_the_template_does(call: Command, thinker: str) -> None:
    found = json.loads(call("doctor", "-p", thinker, "--json").stdout)
    assert found["turn end"] == "<|im_end|>"
    assert found["generation mark"] == "no"
    assert found["prefix stable"].startswith("no")
    assert found["reasoning"].startswith("rewritten: dropped from earlier turns")
    assert found["trims content"] == "no"
    plain = json.loads(call("doctor", "-p", PLAIN, "--json").stdout)
    assert (plain["prefix stable"], plain["reasoning"].split()[0]) == ("yes", "ignored")
