"""Rows longer than --max-length: rejected, cut at the end of an answer, or the end of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlm_prep.core.errors import InputError, Reject
from vlm_prep.core.records import Media
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.probe import probe
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

NAMES = ("qwen2_5_vl", "qwen3_vl", "builtin")
PICTURES = ("page.png", "text.png", "china_6x5.png")
END = "<|im_end|>"
Make = Callable[..., Any]


@pytest.fixture(scope="session")
def pictures(kit: Path) -> tuple[Media, ...]:
    """Three probed pictures."""
    folder = kit / "data" / "images"
    return tuple(probe(Media(kind="image", uris=(str(folder / name),)))[0] for name in PICTURES)


def turns() -> list[dict[str, Any]]:
    """Three questions, each with a picture, and their answers."""
    found: list[dict[str, Any]] = []
    for number in range(3):
        question = [{"type": "image"}, {"type": "text", "text": f"What is picture {number}?"}]
        found.append({"role": "user", "content": question})
        found.append({"role": "assistant", "content": [{"type": "text", "text": f"It is number {number}."}]})
    return found


def real_ids(hf: Any, messages: list[dict[str, Any]], pictures: tuple[Media, ...]) -> list[int]:
    """What the processor makes of a conversation with decoded pictures."""
    left = iter(pictures)
    filled = [
        {
            **message,
            "content": [
                {**part, "image": Image.open(next(left).uris[0]).convert("RGB")} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]
    made = hf.apply_chat_template(filled, tokenize=True, return_dict=True, return_tensors="pt")
    return list(made["input_ids"][0].tolist())


def reason(encode: Callable[[], object]) -> str:
    with pytest.raises(Reject) as caught:
        encode()
    return caught.value.reason.value


def test_a_row_of_exactly_the_limit_is_kept(bench: Make, pictures: tuple[Media, ...]) -> None:
    length = len(bench("builtin").encode(turns(), media=pictures).input_ids)
    for overlong in ("drop", "truncate", "error"):
        made = bench("builtin", max_length=length, overlong=overlong)
        assert len(made.encode(turns(), media=pictures).input_ids) == length


def test_drop_rejects_a_row_one_token_too_long(bench: Make, pictures: tuple[Media, ...]) -> None:
    length = len(bench("builtin").encode(turns(), media=pictures).input_ids)
    made = bench("builtin", max_length=length - 1, overlong="drop")
    with pytest.raises(Reject, match=f"{length} tokens, --max-length is {length - 1}") as caught:
        made.encode(turns(), media=pictures)
    assert caught.value.reason.value == "overlong"


def test_error_names_the_row_and_both_lengths(bench: Make, pictures: tuple[Media, ...]) -> None:
    length = len(bench("builtin").encode(turns(), media=pictures).input_ids)
    made = bench("builtin", max_length=length - 1, overlong="error")
    with pytest.raises(InputError, match=f"a/0: {length} tokens, more than `max_length={length - 1}`"):
        made.encode(turns(), media=pictures)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_row_is_the_processors_result_for_the_shorter_conversation(
    bench: Make, pictures: tuple[Media, ...], name: str
) -> None:
    hf = bench(name).loaded.hf
    lengths = [len(real_ids(hf, turns()[: 2 * n], pictures[:n])) for n in (1, 2, 3)]
    for limit in (lengths[0], lengths[1] - 1, lengths[1], lengths[2] - 1):
        kept = sum(length <= limit for length in lengths)
        encoded = bench(name, max_length=limit, overlong="truncate").encode(turns(), media=pictures)
        assert encoded.input_ids.tolist() == real_ids(hf, turns()[: 2 * kept], pictures[:kept])
        assert json.loads(encoded.conversation)["messages"] == turns()[: 2 * kept]
        assert [tuple(file["uri"] for file in item["files"]) for item in encoded.media] == [
            media.uris for media in pictures[:kept]
        ]
        assert len(encoded.geometry["image_grid_thw"]) == kept


@pytest.mark.parametrize("name", NAMES)
def test_no_limit_ever_cuts_into_a_turn_or_a_picture(bench: Make, pictures: tuple[Media, ...], name: str) -> None:
    whole = bench(name).encode(turns(), media=pictures)
    hf = bench(name).loaded.hf
    expected = {n: "".join(f"It is number {i}.{END}" for i in range(n)) for n in (1, 2, 3)}
    for limit in range(1, len(whole.input_ids) + 20, 23):
        made = bench(name, max_length=limit, overlong="truncate")
        try:
            encoded = made.encode(turns(), media=pictures)
        except Reject as reject:
            assert reject.reason.value == "overlong"  # noqa: PT017
            continue
        assert len(encoded.input_ids) <= limit
        number = len(encoded.media)
        assert made.text_of(encoded) == expected[number]
        merged = hf.image_processor.merge_size**2
        tokens = sum(int(np.prod(grid)) // merged for grid in encoded.geometry["image_grid_thw"])
        assert np.count_nonzero(encoded.input_ids == hf.image_token_id) == tokens


def test_a_first_answer_beyond_the_limit_is_a_reject(bench: Make, pictures: tuple[Media, ...]) -> None:
    first = len(bench("builtin").encode(turns()[:2], media=pictures[:1]).input_ids)
    made = bench("builtin", max_length=first - 1, overlong="truncate")
    assert reason(lambda: made.encode(turns(), media=pictures)) == "overlong"


def test_a_cut_that_leaves_nothing_to_train_is_a_reject(bench: Make, pictures: tuple[Media, ...]) -> None:
    messages = turns()
    messages[1]["train"] = messages[3]["train"] = False
    length = len(bench("builtin").encode(messages, media=pictures).input_ids)
    made = bench("builtin", max_length=length - 1, overlong="truncate")
    assert reason(lambda: made.encode(messages, media=pictures)) == "overlong"


def test_a_question_without_an_answer_is_cut_off_with_its_picture(bench: Make, pictures: tuple[Media, ...]) -> None:
    length = len(bench("builtin").encode(turns()[:5], media=pictures).input_ids)
    encoded = bench("builtin", max_length=length - 1, overlong="truncate").encode(turns()[:5], media=pictures)
    assert len(encoded.media) == 2


def test_train_last_trains_the_last_answer_that_is_left(bench: Make, pictures: tuple[Media, ...]) -> None:
    two = len(bench("builtin").encode(turns()[:4], media=pictures[:2]).input_ids)
    made = bench("builtin", max_length=two, overlong="truncate", train_on="last")
    assert made.trained(turns(), media=pictures) == f"It is number 1.{END}"


def test_a_cut_row_has_the_bytes_of_the_media_it_kept(
    kit: Path, tmp_path: Path, options: Callable[..., RunOptions]
) -> None:
    folder = kit / "data" / "images"
    messages = [
        {**message, "content": [
            {**part, "image": str(folder / PICTURES[number // 2])} if part["type"] == "image" else part
            for part in message["content"]
        ]}
        for number, message in enumerate(turns())
    ]  # fmt: skip
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"messages": messages}) + "\n")

    def run(name: str, **config: Any) -> dict[str, Any]:
        settings = TokenizeConfig(verify_fraction=1.0, **config)
        tokenize(open_samples(data), "builtin:qwen2.5-vl-mini", settings, options(tmp_path / name))
        return Store(tmp_path / name).row(0)

    length = len(run("whole")["input_ids"])
    row = run("cut", max_length=length - 1, overlong="truncate")
    files = [struct["files"][0] for struct in row["media"]]
    assert [bytes(file["bytes"]) for file in files] == [(folder / name).read_bytes() for name in PICTURES[:2]]
