"""What `--dry-run` shows: a fact a line, whatever the facts hold."""

from __future__ import annotations

from vlm_prep.report.facts_text import facts_text


def test_a_fact_stays_on_its_line_and_an_empty_one_is_left_out() -> None:
    facts = {"template": {"header": "<|im_start|>assistant\n", "lead": "", "tail": "\x1b[2K\r"}, "a\nb": 1}
    assert facts_text(facts).splitlines() == [
        "template",
        r"  header               <|im_start|>assistant\n",
        r"  tail                 \x1b[2K\r",
        r"a\nb                   1",
    ]
