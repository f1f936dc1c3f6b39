"""Voxtral over mistral-common: rows are what it encodes, and batches what its processor makes of them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from families.outcomes import media_in, sample
from sources import Rows

from vlm_prep.certify.certificate import certify_processor
from vlm_prep.core.records import Media, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.shards.layout import read_rejects
from vlm_prep.stream.collate import PadCollate
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_run import tokenize

pytest.importorskip("mistral_common")
SPECIAL = {
    **dict(enumerate(("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
                      "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]",
                      "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"))),
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    34: "[TRANSCRIBE]",
}  # fmt: skip
"""Of Voxtral's tekken.json, in their places."""
AUDIO = {
    "sampling_rate": 16_000,
    "frame_rate": 12.5,
    "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
    "chunk_length_s": 30.0,
}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first pieces of a vocabulary that mistral-common ships, with Voxtral's tokens and audio."""
    ensure_torchvision()
    from transformers import WhisperFeatureExtractor

    folder = tmp_path_factory.mktemp("voxtral") / "voxtral"
    data = json.loads((files("mistral_common") / "data" / "tekken_240911.json").read_text())
    named = [{"rank": n, "token_str": SPECIAL.get(n, f"<SPECIAL_{n}>"), "is_control": True} for n in range(40)]
    sizes = {"num_vocab_tokens": 1500, "default_vocab_size": 1540, "default_num_special_tokens": 40}
    config = {**data["config"], **sizes, "version": "v7"}
    made = {"config": config, "vocab": data["vocab"][:1500], "special_tokens": named, "audio": AUDIO}
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "VoxtralProcessor"}))
    (folder / "tekken.json").write_text(json.dumps(made))
    (folder / "config.json").write_text(json.dumps({"model_type": "voxtral", "audio_token_id": 24}))
    return folder


def said(name: str, *turns: tuple[str, str], sounds: tuple[Media, ...] = ()) -> Sample:
    """A row whose sounds stand in its first message."""
    bare = sample(name, sounds)
    messages: list[Any] = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    messages[0]["content"] = [*({"type": "audio"} for _ in sounds), *messages[0]["content"]]
    return replace(bare, messages=messages)


@pytest.fixture
def rows(tmp_path: Path) -> tuple[Sample, ...]:
    media = media_in(tmp_path)
    one, other = media["audio:16000"], media["audio:20000"]
    return (
        sample("text", ()),
        sample("sounds", (one, other)),
        said("sound alone", ("user", ""), ("assistant", "Hiss."), sounds=(one,)),
        said("blanks", ("user", " Hi  you \n"), ("assistant", " Yes.  ")),
        said("signs", ("user", "你好 e\u0301 😀"), ("assistant", "\ufb01n  x\t\n\n1234")),
        said("system", ("system", "Be brief."), ("user", "Hi."), ("assistant", "Yes.")),
    )


def test_rows_and_batches_are_mistral_commons(
    processor: Path, rows: tuple[Sample, ...], tmp_path: Path, options: Any
) -> None:
    config = TokenizeConfig(verify_fraction=1.0)
    manifest = tokenize(Rows(rows), str(processor), config, options(tmp_path / "tok"))
    assert manifest is not None and manifest.totals["rejects"] == {}
    data = ShardDataset(tmp_path / "tok", shuffle=False)
    items = {item["sample_id"]: item for item in (data[number] for number in range(len(data)))}
    from transformers import VoxtralProcessor, WhisperFeatureExtractor
    from transformers.tokenization_mistral_common import MistralCommonBackend

    whole = VoxtralProcessor(
        WhisperFeatureExtractor.from_pretrained(processor),
        MistralCommonBackend.from_pretrained(processor, mode="finetuning"),
    )
    for each in rows:
        encoded = (base64.b64encode(Path(item.uris[0]).read_bytes()).decode() for item in each.media)
        messages: list[Any] = [
            {
                **turn,
                "content": [{**p, "base64": next(encoded)} if p["type"] == "audio" else p for p in turn["content"]],
            }
            for turn in each.messages
        ]
        real = whole.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        batch = PadCollate.for_store(data, shift=False)([items[each.sample_id]])
        assert batch["input_ids"].tolist() == real["input_ids"].tolist(), each.sample_id
        assert ("input_features" in batch) == ("input_features" in real)
        if "input_features" in real:
            assert torch.equal(batch["input_features"], real["input_features"])
    text = load_processor(str(processor)).hf.tokenizer
    trained = {name: text.decode(item["labels"][item["labels"] >= 0].tolist()) for name, item in items.items()}
    assert trained["text"] == "A test.</s>It is brown.</s>" and trained["blanks"] == " Yes.</s>"


def test_what_mistral_common_refuses_or_joins_is_a_reject(
    processor: Path, rows: tuple[Sample, ...], tmp_path: Path, options: Any
) -> None:
    sounds = rows[2].media
    heard = said("heard", ("user", "Hi."), ("assistant", "Yes."), sounds=sounds)
    system: Any = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    taken = (
        replace(heard, sample_id="system and sound", messages=[system, *heard.messages]),
        said("two questions", ("user", "Hi."), ("user", "Ho."), ("assistant", "Yes.")),
        said("a control token", ("user", "What is [INST]?"), ("assistant", "A token.")),
        heard,
    )
    made = options(tmp_path / "out", max_reject_rate=1.0)
    manifest = tokenize(Rows(taken), str(processor), TokenizeConfig(verify_fraction=1.0), made)
    assert manifest is not None and manifest.totals["rows_written"] == 1
    found = {row["sample_id"]: (row["reason"], row["message"]) for row in read_rejects(tmp_path / "out")}
    assert found["system and sound"][0] == "processor_error" and "not allowed" in found["system and sound"][1]
    assert found["two questions"][0] == "template_error" and "mistral-common joins" in found["two questions"][1]
    assert found["a control token"][0] == "processor_differs"


def test_a_tiny_model_computes_the_same_on_batches_and_packs(processor: Path) -> None:
    adapter = adapter_for(load_processor(str(processor)))
    found = certify_processor(SampleEncoder(adapter, TokenizeConfig()))
    assert found.passed, found
    assert {each.form: each.verdict for each in found.findings}["padded"] == "equal"
