"""Florence-2: what its encoder reads and its decoder says are the processor's and its tokenizer's, in one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.build import tokenizer
from PIL import Image
from sources import Rows

from vlm_prep.certify.certificate import certify_processor
from vlm_prep.core.errors import StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.records import Encoded, Media, Message, Rejected, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.stream.collate import PadCollate
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.tokenize_run import tokenize

ROWS = (
    ("task", "<OD>", "coffee<loc_1><loc_2>"),
    ("task with words", "<CAPTION_TO_PHRASE_GROUNDING> a cup of {coffee} ", "a cup<loc_3><loc_1>"),
    ("question", "What is in this picture?", "A cup of coffee on a table, seen from above."),
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real one, with BART's tokens around texts."""
    ensure_torchvision()
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPImageProcessor, Florence2Processor

    places = tuple(f"<loc_{number}>" for number in range(4))
    text = tokenizer(
        ("<s>", "<pad>", "</s>", "<image>", *places),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    text.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    side = {"height": 64, "width": 64}
    part = CLIPImageProcessor(size=side, crop_size=side, image_seq_length=5)
    folder = tmp_path_factory.mktemp("florence") / "florence"
    Florence2Processor(part, text).save_pretrained(folder)
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Media:
    noise = np.random.default_rng(0).integers(0, 256, (150, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "page.png")
    return Media(kind="image", uris=(str(tmp_path / "page.png"),))


def row(name: str, prompt: str, answer: str, *media: Media) -> Sample:
    messages: list[Message] = [
        {"role": "user", "content": [*({"type": "image"} for _ in media), {"type": "text", "text": prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return Sample(sample_id=name, dataset="d", source="s", line=1, messages=messages, media=media)


def test_a_batch_is_what_the_processor_and_its_tokenizer_make(
    processor: Path, page: Media, tmp_path: Path, options: Any
) -> None:
    samples = Rows(tuple(row(*each, page) for each in ROWS))
    config = TokenizeConfig(verify_fraction=1.0)
    manifest = tokenize(samples, str(processor), config, options(tmp_path / "tok"))
    assert manifest is not None and manifest.totals["rows_written"] == 3
    data = ShardDataset(tmp_path / "tok", shuffle=False)
    batch = PadCollate.for_store(data, counts=False)([data[number] for number in range(3)])
    hf = load_processor(str(processor)).hf
    picture = Image.open(page.uris[0])
    real = hf(images=[picture] * 3, text=[prompt for _, prompt, _ in ROWS], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(batch[name], real[name])
    labels = hf.tokenizer([answer for *_, answer in ROWS], padding=True, return_tensors="pt")["input_ids"]
    labels[labels == hf.tokenizer.pad_token_id] = -100
    assert torch.equal(batch["labels"][:, 1:], labels[:, 1:])
    assert batch["labels"][:, 0].tolist() == [-100] * 3  # <s>, which generation is forced to
    shifted = torch.cat([torch.full((3, 1), hf.tokenizer.eos_token_id), labels[:, :-1]], 1)
    real_tokens = batch["decoder_attention_mask"].bool()
    assert torch.equal(batch["decoder_input_ids"][real_tokens], shifted.where(shifted >= 0, 1)[real_tokens])
    assert torch.equal(real_tokens, labels >= 0)
    with pytest.raises(StoreError, match="encoder-decoder"):
        pack(tmp_path / "tok", PackConfig(pack_length=512), options(tmp_path / "packed"))


def test_what_it_does_not_take_is_a_reject_that_says_why(processor: Path, page: Media) -> None:
    samples = (
        row("task beside words", "<OD> of this", "x", page),
        row("two", "<OD>", "x", page, page),
        row("none", "<OD>", "x"),
        row("an end", "what is </s>?", "x", page),
    )
    job = TokenizeJob(Rows(samples), str(processor), TokenizeConfig())
    job.setup()
    found = list(job.results(0, 4))
    assert all(isinstance(each, Rejected) for each in found)
    said = [f"{each.reason}: {each.message}" for each in found if isinstance(each, Rejected)]
    assert "processor_error" in said[0] and "should be the only content in the prompt" in said[0]
    assert said[1] == f"processor_error: {page.uris[0]}: 2 pictures: Florence2Processor takes one to a row"
    assert said[2].startswith("unsupported_media: Florence2Processor takes no row without image media")
    assert said[3] == "processor_error: the question holds '</s>', which ends what the encoder reads"


def test_the_question_is_stored_as_it_is_asked(processor: Path, page: Media) -> None:
    job = TokenizeJob(Rows((row("task", "<OD>", "x", page),)), str(processor), TokenizeConfig())
    job.setup()
    (made,) = job.results(0, 1)
    assert isinstance(made, Encoded)
    assert b"Locate the objects with category name in the image." in made.conversation
    assert job.oracle.compare(row_of(made)).differences == ()


def test_a_tiny_model_computes_the_same_on_batches(processor: Path) -> None:
    from transformers import Florence2Config

    adapter = adapter_for(load_processor(str(processor)))
    config = Florence2Config(
        vision_config={"embed_dim": [16, 16, 16, 16], "num_heads": [2] * 4, "num_groups": [2] * 4, "depths": [1] * 4,
                       "projection_dim": 32, "window_size": 2, "max_position_embeddings": 8},
        text_config={"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
                     "decoder_ffn_dim": 32, "vocab_size": 700},
        image_token_id=adapter.hf.image_token_id,
    )  # fmt: skip
    found = certify_processor(SampleEncoder(adapter, TokenizeConfig()), config)
    verdicts = {each.form: each.verdict for each in found.findings}
    assert verdicts["padded"] == "equal", found
    assert set(verdicts.values()) == {"equal", "refused"}
    assert found.passed
