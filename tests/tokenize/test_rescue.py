"""Rows made shorter by steps: as little as suffices, said in their record, and read in training as they were proved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vlm_prep.core.errors import InputError
from vlm_prep.core.records import Media, MediaHeader
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.decode import load_media
from vlm_prep.report.differences import differences
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.rescue_measures import evenly, exchange_ends, scaled, system_turns
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.update_run import update

BUILTIN = "builtin:qwen2.5-vl-mini"
Run = Callable[..., Any]


def say(role: str, text: str, **media: str) -> dict[str, Any]:
    parts = [{"type": kind, kind: path} for kind, path in media.items()]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def talk(picture: str, answers: int, words: int = 30) -> list[dict[str, Any]]:
    """Questions about one picture that stands with the first."""
    found = [say("system", "Be brief.")]
    for number in range(answers):
        found.append(say("user", f"Question {number}?", **({"image": picture} if not number else {})))
        found.append(say("assistant", f"Answer {number} " + "word " * words))
    return found


@pytest.fixture
def run(options: Callable[..., Any], tmp_path: Path) -> Run:
    """`run(rows, name, **config)`: the store of these rows."""

    def make(rows: list[Any], name: str = "a", processor: str = BUILTIN, **config: Any) -> Store:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        settings = TokenizeConfig(**{"verify_fraction": 1.0, "overlong": "rescue", **config})
        out = tmp_path / name
        tokenize(open_samples(data), processor, settings, options(out, max_reject_rate=1.0))
        return Store(out)

    return make


def said(row: dict[str, Any]) -> dict[str, list[int]]:
    return dict(json.loads(row["rescue"] or "{}"))


@pytest.mark.parametrize("media", ["reference", "encoded", "pixels"])
def test_a_picture_is_scaled_as_far_as_needed_and_read_so(media: str, kit: Path, run: Run, loaded: Any) -> None:
    path = kit / "data" / "images" / "china_exif6.jpg"
    rows = [[say("user", "What is it?", image=str(path)), say("assistant", "A temple.")]]
    store = run(rows, max_length=150, media=media, rescue_min_pixels=3000)
    row, (picture,) = store.row(0), store.row(0)["media"]
    assert 130 <= len(row["input_ids"]) <= 150
    assert picture["scaled"] and picture["height"] % 28 == picture["width"] % 28 == 0
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    small = upright.resize((picture["width"], picture["height"]), Image.Resampling.BICUBIC)
    assert said(row)["pixels"] == [upright.width * upright.height, small.width * small.height]
    assert said(row)["tokens"][1] == len(row["input_ids"])
    # the real processor, called by the test itself
    asked = [{"type": "image", "image": small}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": asked}, say("assistant", "A temple.")]
    real = loaded("builtin").hf.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    dataset = ShardDataset(store.folder)
    batch = PadCollate.for_store(dataset)([dataset[0]])
    assert row["input_ids"].tolist() == real["input_ids"][0].tolist()
    assert torch.equal(batch["pixel_values"], real["pixel_values"])
    assert torch.equal(batch["image_grid_thw"], real["image_grid_thw"])
    totals = store.manifest.totals
    assert totals["rescued_rows"] == totals["rescued_pixels"] == 1 and totals["rows_rejected"] == 0
    assert store.manifest.proof["rows"] == {"image": 1}


def test_videos_of_another_family_are_rescued(kit: Path, run: Run, processors: Path) -> None:
    folder = kit / "data"
    video = [say("user", "And now?", video=str(folder / "videos" / "bikes.mp4")), say("assistant", "Bikes.")]
    picture = [say("user", "What?", image=str(folder / "images" / "flower.jpg")), say("assistant", "Stars.")]
    lengths = run([picture, video], "whole", str(processors / "qwen3_vl"), overlong="drop").lengths()
    limit = int(min(lengths)) * 2 // 3
    store = run([picture, video], "a", str(processors / "qwen3_vl"), max_length=limit, rescue_min_pixels=20_000)
    assert [len(row["input_ids"]) <= limit and bool(said(row)) for row in store.rows()] == [True, True]
    assert store.manifest.proof["rows"] == {"image": 1, "video": 1}


def test_frames_go_evenly_and_pixels_come_back(kit: Path, run: Run) -> None:
    path = str(kit / "data" / "videos" / "carphone_distorted.mp4")
    rows = [[say("user", "What?", video=path), say("assistant", "A man.")]]
    whole = run(rows, "whole", overlong="drop").row(0)
    taken = whole["media"][0]["frame_indices"].tolist()
    frames = run(rows, "frames", max_length=len(whole["input_ids"]) // 2, rescue="frames", rescue_min_frames=2).row(0)
    kept = frames["media"][0]["frame_indices"].tolist()
    assert said(frames)["frames"] == [len(taken), len(kept)] and 2 <= len(kept) < len(taken)
    assert set(kept) < set(taken) and (kept[0], kept[-1]) == (taken[0], taken[-1])
    # the frames' floor does not suffice alone; then pixels give way no more than they must
    floor = len(kept) - 2
    both = run(rows, "both", max_length=len(frames["input_ids"]) // 2, rescue="frames,pixels",
               rescue_min_frames=floor, rescue_min_pixels=3000).row(0)  # fmt: skip
    assert said(both)["frames"][1] >= floor and said(both)["pixels"][1] < said(both)["pixels"][0]
    assert len(both["input_ids"]) <= len(frames["input_ids"]) // 2
    assert np.asarray(load_media(both["media"][0])).shape[1:3] == (
        both["media"][0]["height"],
        both["media"][0]["width"],
    )


def test_a_talk_is_split_with_what_it_refers_to(kit: Path, run: Run) -> None:
    picture = str(kit / "data" / "images" / "flower.jpg")
    rows = [talk(picture, 6), [say("user", "Hi"), say("assistant", "Hello")]]
    whole = run(rows, "whole", overlong="drop")
    limit = len(whole.row(0)["input_ids"]) * 2 // 3
    store = run(rows, max_length=limit, rescue="split")
    documents = list(store.rows())[:-1]
    assert len(documents) >= 2
    assert [row["sample_id"] for row in documents] == [f"rows/0~{n + 1}" for n in range(len(documents))]
    talks = [json.loads(row["conversation"])["messages"] for row in documents]
    for row, messages in zip(documents, talks, strict=True):
        assert len(row["input_ids"]) <= limit and said(row)["documents"] == [1, len(documents)]
        assert messages[0]["role"] == "system" and messages[1]["content"][0]["type"] == "image"
        assert len(row["media"]) == 1
        assert bytes(row["media"][0]["files"][0]["bytes"]) == Path(picture).read_bytes()
    turns = [message for messages in talks for message in messages[1:]]
    texts = [part["text"] for message in turns for part in message["content"] if part["type"] == "text"]
    assert texts == [part["text"] for message in rows[0][1:] for part in message["content"] if part["type"] == "text"]
    # each answer is trained once, as it is in the whole talk
    trained = [row["labels"][row["labels"] != -100] for row in documents]
    assert np.array_equal(np.concatenate(trained), (labels := whole.row(0)["labels"])[labels != -100])
    totals = store.manifest.totals
    assert totals["rows_written"] == 2 and totals["extra_documents"] == len(documents) - 1
    assert said(store.row(len(store) - 1)) == {}


def test_turns_go_where_a_later_one_fits_nowhere(kit: Path, run: Run) -> None:
    picture = str(kit / "data" / "images" / "flower.jpg")
    long = [*talk(picture, 2), say("user", "More?"), say("assistant", "word " * 900)]
    store = run([long, [say("user", "x"), say("assistant", "word " * 900)]], max_length=700)
    (row,) = store.rows()
    assert said(row)["turns"] == [7, 5] and "documents" not in said(row)
    (reject,) = read_rejects(store.folder)
    assert reject["reason"] == "overlong" and "rescue (pixels, frames, split, turns) leaves" in reject["message"]


def test_only_the_last_answer_is_trained_where_that_was_asked(kit: Path, run: Run) -> None:
    picture = str(kit / "data" / "images" / "flower.jpg")
    rows = [talk(picture, 5)]
    whole = run(rows, "whole", overlong="drop", train_on="last").row(0)
    row = run(rows, max_length=len(whole["input_ids"]) - 40, rescue="split", train_on="last").row(0)
    assert np.array_equal(row["labels"][row["labels"] != -100], whole["labels"][whole["labels"] != -100])
    assert said(row)["turns"][1] < said(row)["turns"][0] == 11


def test_the_same_again_and_by_update(kit: Path, run: Run, tree: Any, options: Any, tmp_path: Path) -> None:
    picture = str(kit / "data" / "images" / "flower.jpg")
    rows = [talk(picture, 6), talk(picture, 1), talk(picture, 5)]
    config: dict[str, Any] = {"max_length": 400, "rescue_min_pixels": 90_000}
    one, two = run(rows, "one", **config), run(rows, "two", **config)
    assert tree(one.folder / "train") == tree(two.folder / "train")
    old = run(rows[:2], "old", **config)
    run(rows, "three", **config)
    settings = TokenizeConfig(verify_fraction=1.0, overlong="rescue", **config)
    update(open_samples(tmp_path / "rows.jsonl"), BUILTIN, settings, options(old.folder))
    found = differences(one, Store(old.folder))
    assert found.same, found
    counts = ("rescued_rows", "rescued_from_tokens", "rescued_to_tokens")
    now = Store(old.folder).manifest.totals
    assert [one.manifest.totals[name] for name in counts] == [now[name] for name in counts]


def test_settings_that_make_no_sense_are_refused() -> None:
    wrongs: list[dict[str, Any]] = [
        {"rescue": "pixels,crop"},
        {"rescue": "turns,turns"},
        {"exact_length": 5},
        {"max_length": None},
    ]
    for wrong in wrongs:
        with pytest.raises(InputError):
            TokenizeConfig(**{"overlong": "rescue", "max_length": 5, **wrong})


def test_the_pieces_of_a_rescue() -> None:
    assert evenly(range(10), 4) == (0, 3, 6, 9) and evenly(range(5), 1) == (2,) and evenly(range(3), 3) == (0, 1, 2)
    names = ("system", "user", "assistant", "user", "assistant", "tool", "assistant", "user")
    roles = [{"role": role} for role in names]
    assert system_turns(roles) == 1 and exchange_ends(roles, 1) == [3, 8]
    picture = Media(kind="image", uris=("a",), header=MediaHeader(height=1000, width=500))
    small = scaled(picture, 100_000, 28).header
    assert small is not None and (small.height, small.width, small.own_size) == (420, 196, (1000, 500))
    assert scaled(picture, 500_000, 28) is picture
