"""Rows that are tokenized without a worker, and templates that are compiled before any: within limits."""

from __future__ import annotations

import json
import multiprocessing
import resource
from pathlib import Path

import pytest

from vlm_prep.core.records import Encoded
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.local import Limits
from vlm_prep.ingest.source import open_samples
from vlm_prep.processors.load import load_processor
from vlm_prep.tokenize.bounded_rows import bounded_rows
from vlm_prep.tokenize.tokenize_job import TokenizeJob

PROCESSOR = "builtin:qwen2.5-vl-mini"
TURNS = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}\
{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
HARM = {
    "memory": "{% if 'HARM' in messages | string %}{{ messages | tojson(indent=10**9) }}{% endif %}",
    "time": "{% if 'HARM' in messages | string %}{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}"
    "{% endfor %}{% endif %}",
}


@pytest.mark.parametrize(("kind", "reason"), [("memory", "out_of_memory"), ("time", "timeout")])
def test_a_row_that_takes_too_much_is_a_reject_and_the_others_are_shown(kind: str, reason: str, tmp_path: Path) -> None:
    says = ["hi", "HARM", "ok"]
    chats = [[{"role": "user", "content": word}, {"role": "assistant", "content": "yes"}] for word in says]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    config = TokenizeConfig(chat_template=HARM[kind] + TURNS, media="reference", verify_fraction=0)
    job = TokenizeJob(open_samples(tmp_path / "rows.jsonl"), PROCESSOR, config)
    job.setup()
    first, second, third = bounded_rows(job, 0, 3, Limits(sample_timeout=2.0, worker_memory=1 << 29))
    assert isinstance(first, Encoded) and isinstance(third, Encoded)
    assert not isinstance(second, Encoded) and (second.sample_id, second.reason) == ("rows/1", reason)


def _peak(template: str) -> int:
    load_processor(PROCESSOR, ProcessorConfig(chat_template=template)).hf.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_what_is_constant_in_a_template_is_computed_within_limits() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        peak = pool.apply(_peak, ("{% if 'HARM' in messages | string %}{{ 'x' * 10**10 }}{% endif %}" + TURNS,))
    assert peak < 6 << 20  # KiB
