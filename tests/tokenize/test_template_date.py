"""Templates that write the day: one day in all rows of a store, whenever they are made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from vlm_prep.builtin import builtin_processor
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors import internals
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.template_date import with_day
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.update_run import update
from vlm_prep.tokenize.verify.store import check_store

# as Llama's and Mistral's do: whether there is such a function, the day in two forms, arithmetic on it
TEMPLATE = """
{%- if strftime_now is defined %}{%- set day = strftime_now("%d %b %Y") %}
{%- else %}{%- set day = "26 Jul 2024" %}{% endif %}
{%- set year = strftime_now("%Y-%-m")[:4] | int %}
{{- '<|im_start|>system\nToday is ' ~ day ~ ', after ' ~ (year - 1) ~ '<|im_end|>\n' }}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content is string %}{{ m.content }}{% else %}
{%- for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
Options = Callable[..., RunOptions]


@pytest.fixture
def processor(tmp_path: Path) -> str:
    folder = shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "processor")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`on("2026-07-31")`: what the machine's clock says from now on."""

    def set_day(day: str) -> None:
        monkeypatch.setattr("vlm_prep.tokenize.tokenize_run.today", lambda: day)
        monkeypatch.setattr("vlm_prep.processors.load.today", lambda: day)

    return set_day


def rows(folder: Path, count: int) -> Path:
    """A source of text."""
    source = folder / "rows.jsonl"
    turns = [{"role": "user", "content": "What day is it?"}, {"role": "assistant", "content": "See above."}]
    source.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(count)))
    return source


def texts(store: Path, processor: str) -> set[str]:
    tokenizer = load_processor(processor).hf.tokenizer
    return {tokenizer.decode(item["input_ids"].tolist()) for item in ShardDataset(store)}


def test_a_store_has_one_day_whenever_it_is_gone_on_with(
    processor: str, tmp_path: Path, options: Options, on: Callable[[str], None]
) -> None:
    out = tmp_path / "tok"
    for number, day in enumerate(("2026-07-31", "2026-08-01", "2027-01-02")):
        on(day)
        manifest = update(open_samples(rows(tmp_path, 3 + number)), processor, TokenizeConfig(), options(out))
        assert manifest is not None and manifest.totals["rows_written"] == 3 + number
        assert len(texts(out, processor)) == 1
    again = tokenize(open_samples(rows(tmp_path, 5)), processor, TokenizeConfig(), options(out))
    assert again is not None and again.fingerprint == read_manifest(out).fingerprint
    (text,) = texts(out, processor)
    assert "Today is 31 Jul 2026, after 2025<|im_end|>" in text
    assert "template_date: '2026-07-31'" in (out / "run.yaml").read_text()
    found = check_store(out, processor)
    assert (found.sound, found.rows) == (True, 5)


def test_it_may_be_given_and_is_told(processor: str, tmp_path: Path, options: Options) -> None:
    said: list[str] = []
    config = TokenizeConfig(template_date="2024-07-26")
    tokenize(open_samples(rows(tmp_path, 1)), processor, config, options(tmp_path / "tok", say=said.append))
    (text,) = texts(tmp_path / "tok", processor)
    assert "Today is 26 Jul 2024, after 2023<|im_end|>" in text
    assert any("writes the day, which is 2024-07-26 in all rows" in line for line in said)
    for none in ("yesterday", "2024-13-01", "2024-02-30", "0000-01-01", "\u0662024-01-01", "20240101", "2024-01-01\n"):
        with pytest.raises(InputError, match="no such day"):
            TokenizeConfig(template_date=none)


def test_the_day_of_a_template_that_asks_for_none_is_nowhere(tmp_path: Path, options: Options) -> None:
    manifest = tokenize(
        open_samples(rows(tmp_path, 1)), "builtin:qwen2.5-vl-mini", TokenizeConfig(), options(tmp_path / "tok")
    )
    assert manifest is not None
    assert "template_date" not in json.dumps([manifest.config, manifest.identity])
    assert "template_date" not in (tmp_path / "tok" / "run.yaml").read_text()


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d", "%A, %-d. %B %y", "%H:%M", "100%% of %j", "no day"])
def test_every_form_is_that_of_transformers(form: str) -> None:
    made = internals.compile_template.get()(with_day("\n{{ strftime_now(form) }}\n", "2026-03-05"))
    assert made.render(form=form) == "\n" + datetime(2026, 3, 5).strftime(form)


def test_a_processor_renders_the_day_as_we_do(processor: str) -> None:
    loaded = load_processor(processor, ProcessorConfig(template_date="2025-12-24"))
    messages = [{"role": "user", "content": "Hi"}]
    assert "Today is 24 Dec 2025" in loaded.hf.apply_chat_template(messages, tokenize=False)
