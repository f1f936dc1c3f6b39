"""PaliGemma: prompt and answer are those of its processor with `suffix=`, labels and types of tokens included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.rows import Made
from families.test_prompt_answer import row
from PIL import Image
from sources import Rows

from vlm_prep.core.errors import InputError, ProcessorError
from vlm_prep.core.records import Encoded, Media, Sample
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.token_types import answer_types
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.text import TextEncoder
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.tokenize_run import tokenize

NAME = "PaliGemmaProcessor"
QUESTION = "What is in this picture?"
ANSWERS = {
    "plain": "A cup of coffee.",
    "a line break first": "\n\nIt is brown.",
    "a blank first": "  is brown",
    "places": "<loc0012><loc0345><loc0600><loc1023> cat ; <loc0000><seg001> 你好",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Media]:
    draws, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Image.fromarray(draws.integers(0, 256, (90 + 200 * number, 120, 3), np.uint8)).save(path)
    return [Media(kind="image", uris=(str(path),)) for path in paths]


@pytest.fixture(scope="module")
def processor(made: Made) -> Any:
    return load_processor(str(made(NAME))).hf


@pytest.fixture(scope="module")
def samples(pictures: list[Media]) -> tuple[Sample, ...]:
    told = [row(name, QUESTION, answer, pictures[0]) for name, answer in ANSWERS.items()]
    return (*told, row("two", "Which one is a cat?", "The second.", *pictures))


@pytest.fixture(scope="module")
def job(made: Made, samples: tuple[Sample, ...]) -> Callable[..., TokenizeJob]:
    def job_of(*rows: Sample, **settings: Any) -> TokenizeJob:
        found = TokenizeJob(Rows(rows or samples), str(made(NAME)), TokenizeConfig(**settings))
        found.setup()
        return found

    return job_of


def real(processor: Any, *samples: Sample) -> dict[str, torch.Tensor]:
    asked, said = zip(*((each.messages[0]["content"], each.messages[1]["content"]) for each in samples), strict=True)
    return dict(
        processor(
            images=[[Image.open(item.uris[0]) for item in each.media] for each in samples],
            text=["<image>" * len(each.media) + parts[-1]["text"] for each, parts in zip(samples, asked, strict=True)],
            suffix=[parts[0]["text"] for parts in said],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
    )


def test_ids_labels_and_types_are_the_processors(
    job: Callable[..., TokenizeJob], samples: tuple[Sample, ...], processor: Any
) -> None:
    made = job()
    for number, sample in enumerate(samples):
        (result,) = made.results(number, number + 1)
        assert isinstance(result, Encoded), result
        expected = real(processor, sample)
        assert result.input_ids.tolist() == expected["input_ids"][0].tolist()
        assert result.labels.tolist() == expected["labels"][0].tolist()
        types = answer_types(result.labels, [len(result.labels)])
        assert types.tolist() == expected["token_type_ids"][0].tolist()
        assert made.oracle.compare(row_of(result)).differences == ()


@pytest.mark.parametrize("fast", [True, False])
def test_a_text_is_tokenized_apart_where_that_makes_other_tokens(processor: Any, fast: bool) -> None:
    encoder, text = TextEncoder(processor.tokenizer, fast=fast), "你好 a picture of coffee"
    for made in (encoder.encode(text, 8), encoder.encode_by_offsets(text, 8)):
        assert made.ids.tolist() == [*encoder.ids(text[:8]), *encoder.ids(text[8:])] != encoder.ids(text).tolist()
        assert made.starts[0] == 0 and made.ends[-1] == len(text.encode())
        assert len(text[:8].encode()) in made.ends and len(text[:8].encode()) in made.starts


def test_a_batch_is_the_processors(made: Made, samples: tuple[Sample, ...], processor: Any, tmp_path: Path) -> None:
    options = RunOptions(out=tmp_path / "out", workers=0, progress=False, say=lambda line: None)
    tokenize(Rows(samples), str(made(NAME)), TokenizeConfig(verify_fraction=0), options)
    dataset = ShardDataset(tmp_path / "out", shuffle=False)
    batch = PadCollate.for_store(dataset, shift=False, counts=False)([dataset[n] for n in range(len(samples))])
    expected = real(processor, *samples)
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        assert batch[name].dtype == tensor.dtype and torch.equal(batch[name], tensor), name


def test_what_is_no_question_with_a_picture_and_one_answer_is_a_reject(
    job: Callable[..., TokenizeJob], pictures: list[Media]
) -> None:
    plain = row("plain", QUESTION, "Coffee.", pictures[0])
    turns = Sample(sample_id="turns", dataset="d", source="s", line=1, media=plain.media,
                   messages=[*plain.messages, *row("", "And?", "No.").messages])  # fmt: skip
    system = Sample(sample_id="system", dataset="d", source="s", line=1, media=plain.media,
                    messages=[{"role": "system", "content": "Be brief."}, *plain.messages])  # fmt: skip
    found = list(job(row("text", QUESTION, "Nothing."), turns, system).results(0, 3))
    assert [each.reason for each in found] == ["unsupported_media", "template_error", "template_error"]  # type: ignore[union-attr]


def test_a_cut_row_is_the_beginning_of_the_processors(job: Callable[..., TokenizeJob], samples: Any) -> None:
    length = 256 + len(QUESTION)
    made = job(samples[3], overlong="cut", max_length=length)
    (result,) = made.results(0, 1)
    assert isinstance(result, Encoded) and len(result.input_ids) == length
    assert made.oracle.compare(row_of(result)).differences == ()


@pytest.mark.parametrize("settings", [{"train_on": "all"}, {"token_hook": "tests.hooks:hook"}])
def test_labels_are_the_processors_and_no_others(job: Callable[..., TokenizeJob], settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="PaliGemmaProcessor"):
        job(**settings)


def test_a_template_that_nothing_would_use_is_refused(made: Made) -> None:
    with pytest.raises(ProcessorError, match="`chat_template`: PaliGemmaProcessor makes rows of a prompt and a suffix"):
        adapter_for(load_processor(str(made(NAME)), ProcessorConfig(chat_template="{{ messages }}")))


def test_types_of_packs_begin_anew_with_each_document() -> None:
    labels = np.array([-100, -100, 5, 6, -100, 7, -100, 8, -100])
    assert answer_types(labels, [4, 2, 3]).tolist() == [0, 0, 1, 1, 0, 1, 0, 1, 1]
