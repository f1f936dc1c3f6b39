"""What the decoder of an encoder-decoder is given: its start once, as the model's own config and `generate` have it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vlm_prep.processors.families.prompt_answer import NemotronParse
from vlm_prep.stream import PadCollate

START, BOS = 2, 0
OPENS, PLAIN = [START, BOS, 7, 8, 9, START], [7, 8, START]
"""Nemotron-Parse's prompts begin `</s><s>`, and </s> is the start and the end."""


def item(ids: list[int], trained: int) -> dict[str, Any]:
    labels = [-100] * (len(ids) - trained) + ids[len(ids) - trained :]
    return {"sample_id": "x", "input_ids": np.array(ids), "labels": np.array(labels), "n_images": 0, "n_videos": 0}


def test_a_prompt_that_opens_with_the_start_gets_no_other() -> None:
    batch = PadCollate(1, decoder_start_token_id=START)([item(OPENS, 2)])
    assert batch["decoder_input_ids"].tolist()[0][:5] == OPENS[:-1]
    assert batch["labels"].tolist()[0][:5] == [-100, -100, -100, 9, START]
    assert batch["decoder_attention_mask"].tolist()[0][:5] == [1] * 5


def test_a_text_that_does_not_open_with_it_gets_it() -> None:
    batch = PadCollate(1, decoder_start_token_id=START)([item(OPENS, 2), item(PLAIN, 3)])
    assert batch["decoder_input_ids"][1].tolist()[:3] == [START, 7, 8]
    assert batch["labels"][1].tolist() == [7, 8, START, *[-100] * (batch["labels"].shape[1] - 3)]
    assert batch["decoder_attention_mask"][1].tolist()[:4] == [1, 1, 1, 0]


@pytest.mark.parametrize("ids", [OPENS, PLAIN])
def test_each_label_stands_where_the_decoder_says_it(ids: list[int]) -> None:
    batch = PadCollate(1, decoder_start_token_id=START, max_length=8)([item(ids, 2)])
    whole = torch.tensor(ids if ids[0] == START else [START, *ids])
    assert batch["decoder_input_ids"].shape == batch["labels"].shape == batch["decoder_attention_mask"].shape == (1, 8)
    for position in torch.nonzero(batch["labels"][0] != -100).flatten().tolist():
        assert batch["labels"][0, position] == whole[position + 1]
        assert torch.equal(batch["decoder_input_ids"][0, : position + 1], whole[: position + 1])


@pytest.mark.parametrize(
    ("config", "start"),
    [({"decoder_start_token_id": 5}, 5), ({"decoder": {"decoder_start_token_id": 6}}, 6), ({}, START), (None, START)],
)
def test_the_start_is_the_model_configs(config: dict[str, Any] | None, start: int) -> None:
    tokenizer = SimpleNamespace(bos_token_id=BOS, eos_token_id=START)
    adapter = SimpleNamespace(loaded=SimpleNamespace(model=config), hf=SimpleNamespace(tokenizer=tokenizer))
    assert NemotronParse.decoder_start(adapter) == start  # type: ignore[arg-type]
