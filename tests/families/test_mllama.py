"""Llama 3.2 Vision: which tokens see which pictures, in batches that are the processor's own, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.rows import Made
from families.small_models import model_of
from PIL import Image
from sources import Rows

from vlm_prep.certify.tiny_model import TinyModel
from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Media, Message, Sample
from vlm_prep.core.settings import MediaMode, ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.seen_pictures import seen_pictures
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize

NAME = "MllamaProcessor"
SIZES = ((60, 40), (500, 200), (200, 700), (640, 640))
"""Of one, two, three and four tiles."""
ROWS: dict[str, tuple[str, ...]] = {
    "text": ("Who are you?",),
    "other text": ("What is a page, and of how many rows?",),
    "first": ("image 1", "What is this?"),
    "last": ("What is in the picture that follows? And of what size is it?", "image 3"),
    "side by side": ("image 0", "image 2", "Which one is larger?"),
    "apart": ("image 2", "is the first,", "image 1", "the second.", "Which one is brown, the first or the second?"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    draws, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(len(SIZES))]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        Image.fromarray(draws.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return paths


def messages_of(parts: tuple[str, ...], fill: Callable[[int], dict[str, Any]]) -> list[Message]:
    asked = [fill(int(part[6:])) if part.startswith("image ") else {"type": "text", "text": part} for part in parts]
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "text", "text": f"It has {len(parts)} parts."}]},
    ]


@pytest.fixture(scope="module")
def items(made: Made, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`items("first", "last")`: a dataset of all rows, and items of these."""
    samples = []
    for name, parts in ROWS.items():
        media = tuple(Media(kind="image", uris=(str(pictures[int(p[6:])]),)) for p in parts if p.startswith("image "))
        messages = messages_of(parts, lambda number: {"type": "image"})
        samples.append(Sample(sample_id=name, dataset="d", source="s", line=1, messages=messages, media=media))

    def found(*names: str, media: MediaMode = "reference") -> tuple[ShardDataset, list[dict[str, Any]]]:
        out = tmp_path_factory.getbasetemp() / f"mllama-{media}"
        if not out.exists():
            options = RunOptions(out=out, workers=0, progress=False, say=lambda line: None)
            tokenize(Rows(tuple(samples)), str(made(NAME)), TokenizeConfig(media=media, verify_fraction=0), options)
        dataset = ShardDataset(out, shuffle=False)
        return dataset, [dataset[list(ROWS).index(name)] for name in names]

    return found


@pytest.fixture(scope="module")
def processor(made: Made) -> Any:
    return load_processor(str(made(NAME))).hf


def real(processor: Any, pictures: list[Path], *names: str) -> dict[str, torch.Tensor]:
    rows = [messages_of(ROWS[name], lambda n: {"type": "image", "image": Image.open(pictures[n])}) for name in names]
    return dict(
        processor.apply_chat_template(
            rows,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "right"},
        )
    )


@pytest.mark.parametrize("names", [("text", "other text"), ("first", "last"), ("apart", "side by side")])
@pytest.mark.parametrize("media", ["reference", "pixels"])
def test_a_batch_is_the_processors(
    items: Any, processor: Any, pictures: list[Path], names: tuple[str, ...], media: MediaMode
) -> None:
    dataset, rows = items(*names, media=media)
    batch = PadCollate.for_store(dataset, shift=False, counts=False)(rows)
    expected = real(processor, pictures, *names)
    assert {*batch} - {"labels"} == {*expected}
    for name, tensor in expected.items():
        assert batch[name].dtype == tensor.dtype and torch.equal(batch[name], tensor), name
    shifted = PadCollate.for_store(dataset, counts=False)(rows)
    for name in {"input_ids", "attention_mask", "cross_attention_mask"} & shifted.keys():
        assert torch.equal(shifted[name], batch[name][:, :-1])


def test_a_model_computes_on_a_batch_what_it_does_on_rows(
    items: Any, made: Made, processor: Any, pictures: list[Path]
) -> None:
    dataset, rows = items("first", "last")
    batch = PadCollate.for_store(dataset, shift=False, counts=False)(rows)
    config = model_of(NAME, adapter_for(load_processor(str(made(NAME)))))
    model = TinyModel(config, batch["input_ids"].unique().tolist())
    together = model.run(batch)
    for row, name in enumerate(("first", "last")):
        whole = real(processor, pictures, name)
        alone = model.run(whole).logits[0]
        assert torch.allclose(together.logits[row, : len(alone)], alone, atol=1e-5)
    seeing_all = model.run({**whole, "cross_attention_mask": torch.ones_like(whole["cross_attention_mask"])})
    assert not torch.allclose(seeing_all.logits[0], alone, atol=1e-4)  # that the mask is read


@pytest.mark.parametrize("names", [("text", "first"), ("first", "apart")])
def test_rows_of_other_numbers_of_pictures_do_not_meet(items: Any, names: tuple[str, str]) -> None:
    dataset, rows = items(*names)
    with pytest.raises(ValueError, match=f"{names[1]}.*{names[0]}.*differ in their number of pictures"):
        PadCollate.for_store(dataset)(rows)


def test_a_template_that_opens_with_a_picture_is_refused(made: Made) -> None:
    template = (
        "{% for m in messages %}{% for p in m['content'] %}"
        "{{ '<|image|>' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    )
    with pytest.raises(ProcessorError, match="opens with a picture"):
        adapter_for(load_processor(str(made(NAME)), ProcessorConfig(chat_template=template)))


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_is_that_of_transformers_own_functions(seed: int) -> None:
    from transformers.models.mllama import processing_mllama as theirs

    draws = np.random.default_rng(seed)
    ids = draws.integers(0, 3, (3, 12))
    ids[:, :2] = 1  # no row without a picture: there is no mask of such a batch
    most = int((ids == 1).sum(1).max())
    numbers = [[int(n) for n in draws.integers(1, 5, (row == 1).sum())] for row in ids]
    tiles = np.zeros((3, most, 4), np.int64)
    for row, counts in enumerate(numbers):
        for place, count in enumerate(counts):
            tiles[row, place, :count] = 1
    sparse = [theirs.get_cross_attention_token_mask(row.tolist(), 1) for row in ids]
    expected = theirs.convert_sparse_cross_attention_mask_to_dense(sparse, numbers, 4, ids.shape[1])
    assert np.array_equal(seen_pictures(ids, 1, tiles), expected)
