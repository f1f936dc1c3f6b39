"""Turns that end in plain text: what is trained, end included, for styles of templates over a vocabulary without their
tokens. Every row is compared with the real processor, its labels with those found a second way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_styles import JOIN, PLAIN, Style
from turns import assistant, system, user

from vlm_prep.core.errors import Reject
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.shards.layout import read_rejects
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.real_processor import Comparison, Oracle
from vlm_prep.tokenize.verify.store import check_store

Styled = Callable[..., Any]
ENDS: dict[str, tuple[str, str]] = {
    # what ends a turn that others follow, and the last one
    "vicuna": ("</s>", "</s>"),
    "vicuna, a line each": ("</s>", "</s>"),
    "vicuna with a system of its own": ("</s>", "</s>"),
    "alpaca": ("\n\n", "\n\n"),
    "alpaca with an end": ("</s>", "</s>"),
    "alpaca, the vocabulary's end": ("<|im_end|>", "<|im_end|>"),
    "human": ("\n", "\n"),
    "llama 2": (" </s>", " </s>"),
    "mistral": ("</s>", "</s>"),
    "phi": ("<|end|>", "<|end|>"),
    "phi 2": ("\n", "\n"),
    "zephyr": ("</s>", "</s>"),
    "gemma": ("<end_of_turn>", "<end_of_turn>"),
    "user and assistant": ("\n", "\n"),
    "without a prompt": ("\n", "\n"),
    "an end behind all": ("\n", "\n<|im_end|>"),
    "a word": ("\n--END--", "\n--END--"),
    "last turn open": ("\n", ""),
    "another end for the last": ("", "</s>"),
    "two ends": ("", "<|return|>"),
    "a prompt always": ("\n", "\n"),
    "nothing": ("", ""),
    "a blank": ("", ""),
}


ANSWERS = {
    "one": [user("A?"), assistant("a1")],
    "two": [user("A?"), assistant("a1"), user("B?"), assistant("b1")],
    "system": [system("Be brief."), user("A?"), assistant("a1"), user("B?"), assistant("b1")],
    "a question last": [user("A?"), assistant("a1"), user("Thanks")],
    "its own markers": [
        user("USER: no </s>"),
        assistant("ASSISTANT: no </s> no\nUser: x"),
        user("\n"),
        assistant("b1"),
    ],
    "line breaks": [user("A?\n"), assistant("a\n\nb1"), user("B?"), assistant("b1")],
}


def spans(told: Any, made: Any) -> list[str]:
    """The text of each stretch of trained tokens."""
    return [made.encoder.adapter.hf.tokenizer.decode(run) for run in runs(told.encoded)]


def runs(encoded: Any) -> list[list[int]]:
    found: list[list[int]] = []
    before = False
    for token, label in zip(encoded.input_ids.tolist(), encoded.labels.tolist(), strict=True):
        if label != -100:
            if not before:
                found.append([])
            found[-1].append(token)
        before = label != -100
    return found


def test_all_styles_have_their_end_written_out() -> None:
    assert ENDS.keys() == PLAIN.keys()


@pytest.mark.parametrize("style", PLAIN)
def test_an_answer_and_its_end_are_trained(styled: Styled, style: str) -> None:
    made, (middle, last) = styled(PLAIN[style]), ENDS[style]
    for case, turns in ANSWERS.items():
        (told,) = made.look(turns)
        assert told.proven, case
        answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        found = spans(told, made)
        assert len(found) == len(answers), case
        for index, text in zip(answers, found, strict=True):
            end = last if index == len(turns) - 1 else middle
            expected = turns[index]["content"] + end
            # a token that overlaps the end is trained whole: it may hold a blank, or the next turn's first character
            assert text.lstrip().startswith(expected.lstrip()), (case, text)
            assert len(text.strip()) - len(expected.strip()) <= 1, (case, text)


@pytest.mark.parametrize("style", PLAIN)
def test_the_end_is_left_out_on_demand(styled: Styled, style: str) -> None:
    made = styled(PLAIN[style], train_end="none")
    (told,) = made.look(ANSWERS["two"])
    assert [text.strip() for text in spans(told, made)] == ["a1", "b1"]


@pytest.mark.parametrize("style", PLAIN)
@pytest.mark.parametrize("answer", [" a1 \n", "a1\n\n", ""])
def test_blanks_at_the_edges_and_empty_answers_are_certain(styled: Styled, style: str, answer: str) -> None:
    made = styled(PLAIN[style])
    turns = [user("A?"), assistant(answer), user("B?"), assistant("b1")]
    (told,) = made.look(turns)
    assert told.proven


def test_a_template_of_strings_trains_the_same(styled: Styled) -> None:
    """`a + b` raises where the content is a list of parts."""
    for style in ("vicuna", "alpaca", "llama 2", "user and assistant"):
        template = PLAIN[style].template.removeprefix(JOIN).replace("said(m.content)", "'' + m.content")
        made = styled(Style(template=template, tokens=(), header=""))
        assert not made.encoder.template.findings.parts
        (told,), (parts,) = made.look(ANSWERS["two"]), styled(PLAIN[style]).look(ANSWERS["two"])
        assert told.trained == parts.trained
        assert told.proven


def test_an_empty_string_that_the_processor_makes_a_list_of_is_a_reject(styled: Styled) -> None:
    template = PLAIN["vicuna"].template.removeprefix(JOIN).replace("said(m.content)", "'' + m.content")
    with pytest.raises(Reject, match="message 2 is empty") as caught:
        styled(Style(template=template, tokens=(), header="")).look([user("A?"), assistant("")])
    assert caught.value.reason.value == "processor_error"


def test_two_ends_that_the_vocabulary_knows_are_both_trained(styled: Styled) -> None:
    style = replace(PLAIN["two ends"], tokens=("<|end|>", "<|return|>"))
    (told,) = styled(style).look(ANSWERS["two"])
    assert told.trained == "a1<|end|>b1<|return|>"
    assert told.proven


def test_end_tokens_right_behind_each_other_are_one_end(styled: Styled) -> None:
    style = replace(
        PLAIN["zephyr"],
        template=PLAIN["zephyr"].template.replace("</s>\\n", "<|stop|><|turn|>\\n"),
        tokens=("<|stop|>", "<|turn|>"),
    )
    (told,) = styled(style).look(ANSWERS["two"])
    assert told.trained == "a1<|stop|><|turn|>b1<|stop|><|turn|>"


# --- whole runs -----


def write(path: Path, rows: list[list[dict[str, Any]]]) -> Path:
    path.write_text("\n".join(json.dumps({"messages": messages}) for messages in rows))
    return path


@pytest.mark.parametrize("style", ["vicuna", "alpaca", "nothing"])
def test_a_run_with_such_a_template_ends_well(tmp_path: Path, options: Any, style: str) -> None:
    source = write(tmp_path / "rows.jsonl", list(ANSWERS.values()))
    config = TokenizeConfig(chat_template=PLAIN[style].template)
    told: list[str] = []
    run = options(tmp_path / "tok", say=told.append)
    manifest = tokenize(open_samples(source), "builtin:qwen2.5-vl-mini", config, run)
    assert manifest is not None
    assert manifest.totals["rows_written"] == len(ANSWERS)
    assert any("does not learn to stop" in note if style == "nothing" else "ends answers" in note for note in told)
    assert check_store(tmp_path / "tok", "builtin:qwen2.5-vl-mini").sound


def test_labels_that_the_second_way_finds_otherwise_reject_the_row(
    tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Oracle.compare

    def doubtful(self: Oracle, row: Any) -> Comparison:
        compared = compare(self, row)
        return replace(compared, differences=("labels: from token 5",)) if row["sample_id"] == "rows/1" else compared

    monkeypatch.setattr(Oracle, "compare", doubtful)
    source = write(tmp_path / "rows.jsonl", list(ANSWERS.values()))
    run = options(tmp_path / "tok", workers=0, max_reject_rate=1.0)
    tokenize(open_samples(source), "builtin:qwen2.5-vl-mini", TokenizeConfig(), run)
    assert [(row["sample_id"], row["reason"]) for row in read_rejects(tmp_path / "tok")] == [
        ("rows/1", "labels_undecidable")
    ]
