"""`label_convention`: trained is what TRL trains, by its own templates; what the others do stands beside."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from vlm_prep.builtin import builtin_data
from vlm_prep.core.records import Encoded, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.report.statistics import collect, render
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
TURNS = [
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "Two.\n\nOr three."},
    {"role": "user", "content": "Which?"},
    {"role": "assistant", "content": "The first."},
]


def encoded(template: str, convention: Any, **config: Any) -> tuple[Encoded, Any]:
    """TURNS by a chat template, and the tokenizer."""
    loaded = copy.deepcopy(load_processor(PROCESSOR))
    loaded.hf.chat_template = loaded.hf.tokenizer.chat_template = template
    encoder = SampleEncoder(adapter_for(loaded), TokenizeConfig(label_convention=convention, **config))
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS]
    sample = Sample(sample_id="a/0", dataset="a", source="a", line=1, messages=parts, tools=None, media=())
    return encoder.encode(sample, ()), loaded.hf.tokenizer


def texts(template: str, convention: Any, **config: Any) -> list[str]:
    """The runs of trained tokens, as text."""
    made, tokenizer = encoded(template, convention, **config)
    runs: list[list[int]] = [[]]
    for token, label in zip(made.input_ids.tolist(), made.labels.tolist(), strict=True):
        if label != IGNORE:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("given", ["", "_training"])
@pytest.mark.parametrize("name", ["qwen2_5", "qwen2_5_vl", "qwen3", "qwen3_instruct_2507", "qwen3_vl"])
def test_trls_convention_is_its_own_mask(name: str, given: str) -> None:
    """By the model's own template, for which TRL takes one of its own with marks, and by that one."""
    if not given and name in ("qwen2_5", "qwen3"):
        pytest.skip("TRL's template marks (qwen2_5) or writes (qwen3) something else than the model's own")
    folder = Path(pytest.importorskip("trl").__file__).parent / "chat_templates"
    template = (folder / f"{name}_training.jinja").read_text()
    made, tokenizer = encoded((folder / f"{name}{given}.jinja").read_text(), "trl")
    theirs = tokenizer.apply_chat_template(
        TURNS, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    assert made.input_ids.tolist() == theirs["input_ids"]
    assert [int(label != IGNORE) for label in made.labels] == theirs["assistant_masks"]


CHATML = """{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' -}}
{%- if m.role == 'assistant' -%}{{- BLOCK -}}{%- endif -%}
{%- for part in m.content -%}{{ part.text }}{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
BLOCK = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("convention", "before", "after"),
    [
        ("ours", "", ""),
        ("trl", BLOCK, "\n"),
        ("llamafactory", BLOCK, "\n"),
        ("ms-swift", BLOCK, "\n"),
        ("automodel", BLOCK, ""),
    ],
)
def test_what_each_trains_around_an_answer(convention: str, before: str, after: str) -> None:
    said = ["Two.\n\nOr three.<|im_end|>", "The first.<|im_end|>"]
    plain, thinking = CHATML.replace("BLOCK", "''"), CHATML.replace("BLOCK", repr(BLOCK))
    assert texts(plain, convention) == [each + after for each in said]
    assert texts(thinking, convention) == [before + each + after for each in said]
    # an end that is not trained has no line break behind it either
    assert texts(plain, convention, train_end="last") == [said[0].removesuffix("<|im_end|>"), said[1] + after]


def test_the_difference_is_counted(options: Any, tmp_path: Path) -> None:
    samples = open_samples(builtin_data(), datasets=["tool_talk"])
    totals = {}
    for convention in ("ours", "llamafactory"):
        out = tmp_path / convention
        config = TokenizeConfig(label_convention=convention, verify_fraction=1.0)
        manifest = tokenize(samples, PROCESSOR, config, options(out))
        assert manifest is not None
        totals[convention] = manifest.totals
    more = totals["llamafactory"]["trained_tokens"] - totals["ours"]["trained_tokens"]
    assert more == totals["llamafactory"]["structural_tokens"] > 0
    assert "structural_tokens" not in totals["ours"]
    assert f"{more} of the trained would not be" in render(collect(tmp_path / "llamafactory"))


@pytest.mark.parametrize("share", ["shard", "none"])
def test_rows_keep_their_media_when_datasets_reorders_them(options: Any, tmp_path: Path, share: Any) -> None:
    source = tmp_path / "twice.jsonl"
    lines = (builtin_data().parent / "photo_talk.jsonl").read_text().splitlines()[:3]
    source.write_text("\n".join(lines * 2) + "\n")
    samples = open_samples(source, media_dir=str(builtin_data().parent))
    tokenize(samples, PROCESSOR, TokenizeConfig(share_media=share), options(tmp_path / "tok"))
    rows = load_from_disk(str(tmp_path / "tok"))["train"].shuffle(seed=1).select(range(6))
    bare = [row["sample_id"] for row in rows for item in row["media"] for file in item["files"] if not file["bytes"]]
    assert bool(bare) == (share == "shard")
