"""`labels` and `show` of stores: any row by number, sample_id or its own id, with file names for media."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data, builtin_processor
from vlm_prep.cli.main import app
from vlm_prep.cli.store_reader import reader_for
from vlm_prep.core.errors import InputError
from vlm_prep.core.made_here import marked
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.report.found_rows import all_rows, find_rejects, find_rows
from vlm_prep.report.token_runs import _places
from vlm_prep.shards.layout import write_origin
from vlm_prep.shards.reader import Store
from vlm_prep.tokenize.tokenize_run import tokenize

PROCESSOR = "builtin:qwen2.5-vl-mini"
Options = Callable[..., RunOptions]
PHOTOS = builtin_data().parent / "photos"


def say(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Twelve rows with ids and pictures, one of them unreadable; tokenized, packed for two ranks, and as an index."""
    folder = tmp_path_factory.mktemp("show")
    lines = []
    for number in range(12):
        said = f"<image>What is {number}?", f"Thing {number}\x1b[2J."
        turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
        picture = str(PHOTOS / ("coffee.jpg" if number != 5 else "no.jpg"))
        lines.append(json.dumps({"id": 100 + number, "messages": turns, "images": [picture]}))
    source = folder / "rows.jsonl"
    source.write_text("\n".join(lines) + "\n")
    run: dict[str, Any] = {"workers": 0, "progress": False, "say": lambda line: None, "max_reject_rate": 1.0}
    found = {name: folder / name for name in ("tok", "ranks", "index")}
    tokenize(open_samples(source), PROCESSOR, TokenizeConfig(), RunOptions(out=found["tok"], **run))
    for layout in ("ranks", "index"):
        config = PackConfig(pack_length=2048, world_size=2, layout=layout)
        pack(found["tok"], config, RunOptions(out=found[layout], **run))
    return found


@pytest.mark.parametrize("name", ["tok", "ranks", "index"])
@pytest.mark.parametrize("row", ["rows/7", "107", "id:107", "id:rows/7"])
def test_a_row_is_found_by_its_ids(stores: dict[str, Path], name: str, row: str) -> None:
    assert [each.row["sample_id"] for each in find_rows(Store(stores[name]), row)] == ["rows/7"]


def test_an_own_id_that_is_no_number_finds_its_row(tmp_path: Path, options: Options) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"id": f"coco-{number}", "messages": turns} for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenize(open_samples(tmp_path / "rows.jsonl"), PROCESSOR, TokenizeConfig(), options(tmp_path / "out"))
    (found,) = find_rows(Store(tmp_path / "out"), "coco-2")  # and not coco-20
    assert found.row["sample_id"] == "rows/2"


def test_all_stores_hold_the_same_documents(stores: dict[str, Path]) -> None:
    ids = {name: sorted(each.row["sample_id"] for each in all_rows(Store(path))) for name, path in stores.items()}
    assert ids["tok"] == ids["ranks"] == ids["index"] and len(ids["tok"]) == 11


def test_the_number_of_a_pack_is_the_same_in_both_layouts(stores: dict[str, Path]) -> None:
    for number in range(len(Store(stores["index"]))):
        packs = [
            [each.row["sample_id"] for each in find_rows(Store(stores[name]), str(number))]
            for name in ("ranks", "index")
        ]
        assert packs[0] == packs[1] and packs[0]


def test_a_rejected_row_is_found_with_its_reason(stores: dict[str, Path]) -> None:
    assert list(find_rows(Store(stores["tok"]), "rows/5")) == []
    (reject,) = find_rejects(Store(stores["tok"]), "105")
    assert reject["reason"] == "missing_file"
    shown = say("show", stores["tok"], "rows/5")
    assert "missing_file" in shown and "no.jpg" in shown
    assert "missing_file" in say("show", stores["ranks"], "rows/5")


def test_what_is_not_there_is_an_error(stores: dict[str, Path]) -> None:
    for row in ("rows/12", "12", "nothing"):
        with pytest.raises(InputError, match="no row"):
            list(find_rows(Store(stores["tok"]), row))


def test_show_says_all_that_is_known(stores: dict[str, Path]) -> None:
    shown = say("show", stores["tok"], "3")
    for words in ("rows/3", '{"id":103}', "image_grid_thw", "coffee.jpg", "height", "stored_bytes", "[coffee.jpg x "):
        assert words in shown
    assert "⟦Thing 3\\x1b[2J.<|im_end|>⟧" in shown and "\x1b" not in shown
    (found,) = json.loads(say("show", stores["tok"], "3", "--json"))
    assert found["kept"] == {"id": 103} and any(run["trained"] for run in found["runs"])


def test_labels_of_a_store_are_those_of_its_source(stores: dict[str, Path]) -> None:
    source = stores["tok"].parent / "rows.jsonl"
    of_source = json.loads(say("labels", source, "-p", PROCESSOR, "--json"))
    of_store = json.loads(say("labels", stores["tok"], "--json"))
    assert [each["runs"] for each in of_store] == [each["runs"] for each in of_source if "runs" in each]
    assert "[coffee.jpg x " in say("labels", stores["ranks"], "--row", "rows/7")


def test_a_tokenizer_that_only_a_store_names_is_not_opened(stores: dict[str, Path], tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores["tok"], tmp_path / "tok"))
    theirs = shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "theirs")
    write_origin(store, {"processor": str(theirs)})
    assert reader_for(Store(store), None, ProcessorConfig()).tokenizer is None
    assert "⟦" not in say("labels", store)
    assert "⟦" in say("labels", store, "-p", theirs)
    write_origin(store, marked({"processor": str(theirs)}))
    assert reader_for(Store(store), None, ProcessorConfig()).tokenizer is not None


def test_runs_of_a_videos_frames_have_its_name() -> None:
    assert _places(["<|video_pad|>"] * 3, ["video"]) == [0, 0, 0]
    assert _places(["<|image_pad|>", "<|video_pad|>", "<|video_pad|>"], ["image", "video"]) == [0, 1, 1]
    assert _places(["<|video_pad|>"] * 3, ["video", "video"]) == [None] * 3
