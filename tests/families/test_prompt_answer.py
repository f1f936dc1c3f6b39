"""Encoder-decoders through prompt and answer: ids are the processor's own, and tiny models compute the same on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from families.build import tokenizer
from PIL import Image
from sources import Rows

from vlm_prep.certify.certificate import certify_processor
from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Encoded, Media, Message, Rejected, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.model_config import config_of
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.stream import PadCollate
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of

Tell = Callable[[str, str, tuple[Media, ...]], Sample]


def whisper(folder: Path) -> Path:
    """A small real Whisper processor, with a vocabulary that is trained here."""
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    # in the order of the real vocabulary: languages follow the transcript's start
    special = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
               "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip
    text = tokenizer(special, unk_token="<|endoftext|>")
    data = json.loads(text.backend_tokenizer.to_str())["model"]
    made = WhisperTokenizer(vocab=data["vocab"], merges=[tuple(pair) for pair in data["merges"]])
    made.add_special_tokens({"additional_special_tokens": list(special), "pad_token": "<|endoftext|>"})
    WhisperProcessor(WhisperFeatureExtractor(), made).save_pretrained(folder)
    return folder


def donut(folder: Path, *, config: bool = True) -> Path:
    """A small real Donut processor; the start of its decoder stands in the model's config."""
    from transformers import DonutImageProcessor, DonutProcessor

    text = tokenizer(("<s>", "<pad>", "</s>", "<s_qa>", "<s_question>", "</s_question>", "<s_answer>"),
                     bos_token="<s>", eos_token="</s>", pad_token="<pad>")  # fmt: skip
    DonutProcessor(DonutImageProcessor(size={"height": 128, "width": 96}), text).save_pretrained(folder)
    if config:
        (folder / "config.json").write_text(json.dumps(donut_config(text.convert_tokens_to_ids("<s_qa>"))))
    return folder


def donut_config(start: int) -> dict[str, Any]:
    return {
        "model_type": "vision-encoder-decoder",
        "is_encoder_decoder": True,
        "decoder_start_token_id": start,
        "pad_token_id": 1,
        "encoder": {"model_type": "donut-swin", "image_size": [128, 96], "patch_size": 4, "embed_dim": 16,
                    "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        "decoder": {"model_type": "mbart", "is_decoder": True, "add_cross_attention": True, "d_model": 32,
                    "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 700},
    }  # fmt: skip


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ensure_torchvision()
    root = tmp_path_factory.mktemp("processors")
    return {"whisper": whisper(root / "whisper"), "donut": donut(root / "donut")}


@pytest.fixture
def clip(tmp_path: Path) -> Callable[[float], Media]:
    def make(seconds: float) -> Media:
        path = tmp_path / f"{seconds}.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
        soundfile.write(path, noise, 16_000)
        return Media(kind="audio", uris=(str(path),))

    return make


@pytest.fixture
def page(tmp_path: Path) -> Media:
    noise = np.random.default_rng(0).integers(0, 256, (150, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "page.png")
    return Media(kind="image", uris=(str(tmp_path / "page.png"),))


def row(name: str, prompt: str, answer: str, *media: Media) -> Sample:
    asked: list[dict[str, Any]] = [{"type": item.kind} for item in media]
    asked += [{"type": "text", "text": prompt}] if prompt else []
    messages: list[Message] = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return Sample(sample_id=name, dataset="d", source="s", line=1, messages=messages, media=media)


def job_of(processor: Path, *samples: Sample) -> TokenizeJob:
    job = TokenizeJob(Rows(samples), str(processor), TokenizeConfig())
    job.setup()
    return job


def encoded(job: TokenizeJob, number: int = 0) -> Encoded:
    (result,) = job.results(number, number + 1)
    assert isinstance(result, Encoded), getattr(result, "message", result)
    assert job.oracle.compare(row_of(result)).differences == ()
    return result


def test_whispers_ids_are_those_of_its_tokenizer(processors: dict[str, Path], clip: Callable[[float], Media]) -> None:
    answer = "A cup of coffee, 你好."
    job = job_of(processors["whisper"], row("asr", "", answer, clip(1.0)))
    made = encoded(job)
    text = job.encoder.adapter.hf.tokenizer
    assert made.input_ids.tolist() == text(answer)["input_ids"]
    prefix = len(text.prefix_tokens)
    assert made.labels.tolist() == [-100] * prefix + text(answer)["input_ids"][prefix:]
    assert made.labels[-1] == text.eos_token_id


def test_a_prompt_of_the_data_names_language_and_task(
    processors: dict[str, Path], clip: Callable[[float], Media]
) -> None:
    prompt = "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>"
    job = job_of(processors["whisper"], row("asr", prompt, "The second row.", clip(1.0)))
    text = job.encoder.adapter.hf.tokenizer
    made = encoded(job)
    wanted = [text.convert_tokens_to_ids(each) for each in ("<|startoftranscript|>", "<|de|>", "<|transcribe|>")]
    assert made.input_ids[:3].tolist() == wanted
    assert (made.labels[:4] == -100).all() and (made.labels[4:] == made.input_ids[4:]).all()


def test_whispers_batch_is_what_a_trainer_makes_of_labels(
    processors: dict[str, Path], clip: Callable[[float], Media]
) -> None:
    job = job_of(processors["whisper"], row("a", "", "One.", clip(1.0)), row("b", "", "One, two, three.", clip(2.0)))
    start = job.encoder.adapter.decoder_start()
    items = [{"input_ids": each.input_ids, "labels": each.labels} for each in (encoded(job, 0), encoded(job, 1))]
    batch = PadCollate(job.encoder.adapter.hf.tokenizer.pad_token_id, decoder_start_token_id=start)(items)
    first = items[0]["input_ids"]
    assert batch["decoder_input_ids"][0, : len(first) - 1].tolist() == first[:-1].tolist()
    assert batch["labels"][0, : len(first) - 1].tolist() == items[0]["labels"][1:].tolist()
    assert batch["decoder_attention_mask"].sum(1).tolist() == [len(each["input_ids"]) - 1 for each in items]


def test_what_whisper_does_not_take_is_a_reject(
    processors: dict[str, Path], clip: Callable[[float], Media], page: Media
) -> None:
    samples = (
        row("long", "", "It is cut at 30 s.", clip(31.0)),
        row("two", "", "Two clips.", clip(1.0), clip(2.0)),
        row("none", "What?", "No sound."),
        row("page", "", "A page.", page),
    )
    found = [result.reason for result in job_of(processors["whisper"], *samples).results(0, 4)]  # type: ignore[union-attr]
    assert found == ["audio_too_long", "processor_error", "unsupported_media", "unsupported_media"]


def test_donuts_ids_are_those_of_its_processor(processors: dict[str, Path], page: Media) -> None:
    prompt, answer = "<s_qa><s_question>What is it?</s_question><s_answer>", "A page."
    job = job_of(processors["donut"], row("qa", prompt, answer, page))
    made = encoded(job)
    adapter = job.encoder.adapter
    whole = adapter.hf(images=Image.open(page.uris[0]), text=prompt + answer + "</s>", return_tensors="pt")
    assert made.input_ids.tolist() == whole["input_ids"][0].tolist()
    assert made.input_ids[0] == adapter.decoder_start()
    bare = adapter.hf.tokenizer(answer + "</s>", add_special_tokens=False)["input_ids"]
    assert made.labels[made.labels >= 0].tolist() == bare


def test_donut_without_its_models_config_says_what_it_needs(tmp_path: Path) -> None:
    folder = donut(tmp_path / "donut", config=False)
    with pytest.raises(ProcessorError, match="the token that the model's decoder starts with is not known"):
        job_of(folder)


@pytest.mark.parametrize("name", ["whisper", "donut"])
def test_a_tiny_model_computes_the_same_on_batches(processors: dict[str, Path], name: str) -> None:
    adapter = adapter_for(load_processor(str(processors[name])))
    encoder = SampleEncoder(adapter, TokenizeConfig())
    config = config_of(donut_config(adapter.decoder_start() or 0)) if name == "donut" else None
    found = certify_processor(encoder, config)
    verdicts = {each.form: each.verdict for each in found.findings}
    assert verdicts["padded"] == "equal", found
    assert set(verdicts.values()) == {"equal", "refused"}
    assert found.not_compared == ()
    assert found.passed


def test_rows_of_results_name_no_other_faults(processors: dict[str, Path], page: Media) -> None:
    job = job_of(processors["donut"], row("text", "<s_qa>", "No page."))
    (result,) = job.results(0, 1)
    assert isinstance(result, Rejected) and result.reason == "unsupported_media"
