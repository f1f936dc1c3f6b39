"""Other settings for a finished store: it becomes, row for row, the one that is made anew with them, and no more is
done than a layer of the settings asks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from changing_rows import (
    CONFIG,
    PHOTOS,
    Rows,
    Source,
    assert_as_from_scratch,
    bring_up,
    done_rows,
    killed_at_each_step,
    row,
)
from chat_styles import STYLES
from PIL import Image

from vlm_prep.builtin import builtin_data
from vlm_prep.core.errors import OutputError
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.gather.gather_run import gather
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media import probe
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize import probe_rows

Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
CLIP = builtin_data().parent / "clips" / "ball.mp4"
ALONE = ("alpha.png", "0.jpg", "large.jpg", "animated.gif")


def talk(user: str, answers: int, **keys: Any) -> dict[str, Any]:
    """A row of several turns."""
    turns = []
    for number in range(answers):
        asked = user if number == 0 else f"And what is {number}?"
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": f"It is {'so ' * 20}{number}."}]
    return {"messages": turns, **keys}


def all_rows() -> Rows:
    """Rows of each kind that an outcome may hang on: media of all forms, lengths, rejects, turns without training."""
    rows = [talk("<image>What?", 3, images=[name]) for name in ALONE]
    rows += [talk("<image><image>Which?", 2, images=pair) for pair in (["0.jpg", "1.jpg"], ["0.jpg", "alpha.png"])]
    rows += [talk("<video>What?", 2, videos=[video]) for video in (str(CLIP), ["0.jpg", "1.jpg", "2.jpg", "3.jpg"])]
    rows += [talk("<image>What?", 1, images=["gone.jpg"]), talk("Long?", 40), talk("Short?", 1), talk("Middle?", 8)]
    untrained = talk("Long and not trained?", 12)
    for turn in untrained["messages"]:
        turn["train"] = False
    late = talk("What?", 2)
    late["messages"][2:2] = [{"role": "user", "content": "<image>And this?"}, {"role": "assistant", "content": ""}]
    thinks = talk("Think?", 3)
    for turn in thinks["messages"][1::2]:
        turn["reasoning_content"] = "Hm."
    aloud = talk("Think aloud?", 3)
    for turn in aloud["messages"][1::2]:
        turn["content"] = f"<think>Hm.</think>{turn['content']}"
    return [*rows, aloud, untrained, {**late, "images": ["large.jpg"]}, thinks, *(row(number) for number in range(12))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("data")
    made = Source(folder)
    Image.open(PHOTOS / "rocket.jpg").resize((900, 700)).save(folder / "large.jpg")
    Image.open(PHOTOS / "rocket.jpg").resize((90, 70)).convert("RGBA").save(folder / "alpha.png")
    frames = [Image.new("RGB", (90, 70), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    made.write(all_rows())
    return made


Made = Callable[[TokenizeConfig], Path]


@pytest.fixture(scope="module")
def made(source: Source, tmp_path_factory: pytest.TempPathFactory, options: Options) -> Made:
    """A store of given settings, made once."""
    known: dict[str, Path] = {}

    def of(config: TokenizeConfig) -> Path:
        name = str(config)
        if name not in known:
            known[name] = tmp_path_factory.mktemp("store") / "out"
            bring_up(source, known[name], options, config)
        return known[name]

    return of


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The media whose headers are really read."""
    names: list[str] = []
    real = probe.probe

    def noted(media: Any, **settings: Any) -> Any:
        names.extend(Path(uri).name for uri in media.uris)
        return real(media, **settings)

    monkeypatch.setattr(probe_rows, "probe", noted)
    return names


SPLIT: dict[str, Any] = {"rewritten_history": "split", "chat_template": STYLES["qwen3"].template}
"""With a template that drops the reasoning of earlier turns: without one no row becomes several documents."""
LENGTHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no limit to dropped": ({"max_length": None}, {"max_length": 200}),
    "dropped to no limit": ({"max_length": 200}, {"max_length": None}),
    "dropped to shorter": ({"max_length": 700}, {"max_length": 150}),
    "dropped to truncated": ({"max_length": 300}, {"max_length": 300, "overlong": "truncate"}),
    "truncated to dropped": ({"max_length": 300, "overlong": "truncate"}, {"max_length": 300}),
    "truncated to longer": ({"max_length": 150, "overlong": "truncate"}, {"max_length": 300, "overlong": "truncate"}),
    "truncated to shorter": ({"max_length": 400, "overlong": "truncate"}, {"max_length": 120, "overlong": "truncate"}),
    "dropped to cut": ({"max_length": 300}, {"max_length": 100, "overlong": "cut"}),
    "cut to longer": ({"max_length": 100, "overlong": "cut"}, {"max_length": 500, "overlong": "cut"}),
    "cut to dropped": ({"max_length": 100, "overlong": "cut"}, {"max_length": 100}),
    "dropped to rescued": ({"max_length": 300}, {"max_length": 300, "overlong": "rescue"}),
    "rescued to dropped": ({"max_length": 300, "overlong": "rescue"}, {"max_length": 300}),
    "rescued to other steps": (
        {"max_length": 300, "overlong": "rescue"},
        {"max_length": 250, "overlong": "rescue", "rescue": "split", "rescue_min_frames": 2},
    ),
    "dropped to exact": ({"max_length": 300}, {"max_length": None, "exact_length": 40}),
    "exact to others": ({"max_length": None, "exact_length": 40}, {"max_length": 500}),
    "split documents to shorter": (
        {"max_length": 1024, **SPLIT},
        {"max_length": 150, **SPLIT},
    ),
    "split documents to longer": (
        {"max_length": 60, **SPLIT},
        {"max_length": None, **SPLIT},
    ),
}


def has_documents(store: Path) -> bool:
    """Whether a row of a store became several documents by its history."""
    return any("~2" in name for shard in Store(store).shards for name in shard.column("sample_id").to_pylist())


@pytest.mark.parametrize("change", LENGTHS)
def test_another_limit_or_policy(
    source: Source, made: Made, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before, after = ({"verify_fraction": 0.1, **each} for each in LENGTHS[change])
    out = Path(shutil.copytree(made(TokenizeConfig(**before)), tmp_path / "out"))
    names = done_rows(monkeypatch)
    bring_up(source, out, options, TokenizeConfig(**after))
    few = before.get("overlong") != "truncate" and not {"rewritten_history", "exact_length"} & {*before, *after}
    assert not few or len(names) < len(all_rows())
    monkeypatch.undo()
    assert "rewritten_history" not in after or has_documents(out)
    assert_as_from_scratch(source, out, tmp_path, options, TokenizeConfig(**after))


LABELS: dict[str, dict[str, Any]] = {
    "the last turn": {"train_on": "last"},
    "all text": {"train_on": "all"},
    "no ends": {"train_end": "none"},
    "other structural tokens": {"label_convention": "trl"},
    "no empty answers": {"empty_answers": "reject"},
    "no reasoning": {"train_reasoning": False},
    "weights": {"loss_weights": True},
    "documents": SPLIT,
    "the last turn of longer rows": {"train_on": "last", "max_length": None},
    "the last turn, truncated": {"train_on": "last", "max_length": 120, "overlong": "truncate"},
}
PIXELS: dict[str, dict[str, Any]] = {
    "fewer pixels": {"max_pixels": 50_000},
    "fewer pixels of shorter rows": {"max_pixels": 100_352, "max_length": 150},
    "more pixels": {"min_pixels": 400_000},
    "other frames": {"fps": 1.0},
}


@pytest.mark.parametrize("media", ["encoded", "reference", "pixels"])
@pytest.mark.parametrize("change", [*LABELS, *PIXELS])
def test_other_labels_and_pixels_look_at_no_media(
    source: Source,
    made: Made,
    tmp_path: Path,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    media: Any,
    change: str,
) -> None:
    if media != "encoded" and change not in ("the last turn", "documents", "fewer pixels", "other frames"):
        return
    config = replace(CONFIG, media=media, fps=2.0, max_frames=4)
    out = Path(shutil.copytree(made(config), tmp_path / "out"))
    after = replace(config, **(LABELS | PIXELS)[change])
    names = looked_at(monkeypatch)
    bring_up(source, out, options, after)
    if media != "pixels":  # of which the tensors are made of the files
        assert not {*names} - {"gone.jpg", "ball.mp4", "0.jpg", "alpha.png"}, names  # see `known_media`
        assert "gone.jpg" in names and names.count("0.jpg") <= 1
    monkeypatch.undo()
    assert change != "documents" or has_documents(out)
    assert_as_from_scratch(source, out, tmp_path, options, after)
    anew = [info.xxh3 for _, info in read_manifest(tmp_path / "scratch").shards()]
    assert [info.xxh3 for _, info in read_manifest(out).shards()] == anew


def test_rows_that_changed_and_other_settings_at_once(
    source: Source, made: Made, tmp_path: Path, options: Options
) -> None:
    out = Path(shutil.copytree(made(CONFIG), tmp_path / "out"))
    rows = all_rows()
    source.write([row(900), *rows[4:], talk("<image>New?", 1, images=["3.jpg"])])
    try:
        after = replace(CONFIG, train_on="last", max_pixels=100_352, max_length=400)
        bring_up(source, out, options, after, workers=1)
        assert_as_from_scratch(source, out, tmp_path, options, after)
    finally:
        source.write(rows)


def test_settings_of_no_layer_are_refused(source: Source, made: Made, tmp_path: Path, options: Options) -> None:
    out = Path(shutil.copytree(made(CONFIG), tmp_path / "out"))
    with pytest.raises(OutputError, match="media: 'encoded' then, 'reference' now"):
        bring_up(source, out, options, replace(CONFIG, media="reference", train_on="last"))


def test_rows_of_a_media_store(
    source: Source, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that refer to one stay as they are, and are encoded again without a look at it."""
    ingest(open_samples(source.path), IngestConfig(), options(tmp_path / "ing", max_reject_rate=1.0))
    gather([tmp_path / "ing"], options(tmp_path / "media", max_reject_rate=1.0))
    config = replace(CONFIG, media="reference", media_store=[str(tmp_path / "media")], fps=2.0, max_frames=4)
    out = tmp_path / "out"
    bring_up(source, out, options, config)
    done = done_rows(monkeypatch)
    said = bring_up(source, out, options, config)
    assert done == [] and any("0 changed" in line for line in said), said
    names = looked_at(monkeypatch)
    after = replace(config, train_on="last", max_pixels=100_352)
    bring_up(source, out, options, after)
    assert done and {*names} <= {"gone.jpg", "ball.mp4", "0.jpg", "alpha.png"}, names
    monkeypatch.undo()
    assert_as_from_scratch(source, out, tmp_path, options, after)
    assert Store(out).manifest.totals["media_of_stores"]


def test_a_kill_leaves_the_rows_of_the_old_settings_or_of_the_new(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch, tree: Tree
) -> None:
    source, after = Source(tmp_path), replace(CONFIG, train_on="last", max_length=150)
    source.write([talk("Long?", 40), talk("Middle?", 4), row(0, "0.jpg"), row(1)])
    old, at = tmp_path / "old", tmp_path / "killed"
    bring_up(source, old, options)
    whole = Path(shutil.copytree(old, tmp_path / "whole"))
    bring_up(source, whole, options, after)
    fingerprints = [read_manifest(each).fingerprint for each in (old, whole)]
    expected, seen, kills = tree(whole), set(), 0
    for _ in killed_at_each_step(monkeypatch, old, at, lambda at: bring_up(source, at, options, after)):
        kills += 1
        now = read_manifest(at)
        assert now.fingerprint in fingerprints
        assert all((at / name).exists() for name, _ in now.shards())
        state = ["old", "new"][fingerprints.index(now.fingerprint)]
        seen.add(state)
        if state == "new" or kills % 6 == 0:
            bring_up(source, at, options, after)
            assert {name: each for name, each in tree(at).items() if not name.startswith("_work")} == expected
    assert seen == {"old", "new"} and kills > 10
