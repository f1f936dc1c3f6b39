"""Media stores: files by content, once for any number of stores; see `vlm_prep.media.gathered`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm_prep.cli.main import app
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.settings import IngestConfig, TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.gather import gather_free
from vlm_prep.ingest.gather.gather_run import gather
from vlm_prep.ingest.ingest_run import ingest
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.files import MEDIA_STORES
from vlm_prep.media.gathered import open_media_store
from vlm_prep.report.differences import differences
from vlm_prep.shards.layout import read_rejects
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize


def options(out: Path) -> RunOptions:
    return RunOptions(out=out, workers=0, say=lambda line: None, max_reject_rate=1.0)


def picture(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (300, 300, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six rows over four files, of which one is a copy of another and one differs in its middle alone."""
    folder = tmp_path / "files"
    folder.mkdir()
    first = picture(folder / "a.bmp", 0)
    shutil.copy(first, folder / "copy.bmp")
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 255
    (folder / "middle.bmp").write_bytes(data)
    picture(folder / "b.png", 1)
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>What?"},
                {"role": "assistant", "content": f"It is {number}."},
            ],
            "images": [name],
        }
        for number, name in enumerate(("a.bmp", "copy.bmp", "middle.bmp", "b.png", "a.bmp", "b.png"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture
def ingested(source: Path, tmp_path: Path) -> Path:
    assert ingest(open_samples(source), IngestConfig(), options(tmp_path / "ingested"))
    return tmp_path / "ingested"


def must_be_sound(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert not damaged_files(folder, manifest) and not wrong_accounts(folder, manifest)


def gathered(store: Path, out: Path, known: tuple[str, ...] = ()) -> Manifest:
    found = gather([store], options(out), known=known)
    assert found is not None
    return found


def tokenized(source: Path, out: Path, **settings: object) -> Path:
    config = TokenizeConfig(media="reference", **settings)  # type: ignore[arg-type]
    assert tokenize(open_samples(source), "builtin:qwen2.5-vl-mini", config, options(out))
    return out


def test_each_content_is_stored_once_and_all_bytes_decide(ingested: Path, tmp_path: Path) -> None:
    manifest = gathered(ingested, tmp_path / "media")
    assert (manifest.totals["files"], manifest.totals["contents"]) == (4, 3)
    must_be_sound(tmp_path / "media")
    rows = list(open_media_store(tmp_path / "media").rows())
    assert [[Path(uri).name for uri in row["uris"]] for row in rows] == [
        ["a.bmp", "copy.bmp"],
        ["middle.bmp"],
        ["b.png"],
    ]
    for row in rows:
        assert all(Path(uri).read_bytes() == row["bytes"].tobytes() for uri in row["uris"])


def test_rows_that_refer_to_a_media_store_are_those_of_the_files(ingested: Path, source: Path, tmp_path: Path) -> None:
    gathered(ingested, tmp_path / "media")
    plain = tokenized(source, tmp_path / "plain")
    stored = [
        tokenized(each, tmp_path / f"stored{number}", media_store=[str(tmp_path / "media")])
        for number, each in enumerate((ingested, source))
    ]
    batch = batch_of(plain)
    shutil.rmtree(source.parent)  # the files are no longer needed
    for folder in stored:
        found = differences(Store(plain), Store(folder))
        assert found.same
        assert Store(folder).manifest.totals["media_of_stores"] == 6
        assert np.array_equal(batch, batch_of(folder))
    again = tokenized(ingested, tmp_path / "again", media_store=[str(tmp_path / "media")], max_length=900)
    assert len(Store(again)) == 6


def batch_of(folder: Path) -> np.ndarray:
    rows = ShardDataset(str(folder), pixels=True)
    batch = PadCollate.for_store(rows)([rows[number] for number in range(len(rows))])
    return np.asarray(batch["pixel_values"])


def test_a_store_that_was_moved_is_found_and_another_one_is_not_believed(
    ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered(ingested, tmp_path / "media")
    folder = tokenized(ingested, tmp_path / "tokens", media_store=[str(tmp_path / "media")])
    batch = batch_of(folder)
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="no such LMDB, archive or data file"):
        batch_of(folder)
    monkeypatch.setenv(MEDIA_STORES, str(tmp_path / "elsewhere"))
    assert np.array_equal(batch, batch_of(folder))
    shard = next((tmp_path / "elsewhere" / "train").glob("*.arrow"))
    shard.write_bytes((next((ingested / "train").glob("*.arrow"))).read_bytes())
    with pytest.raises(Exception, match="nothing at"):
        batch_of(folder)


def test_files_that_changed_or_are_gone_are_rejects(ingested: Path, source: Path, tmp_path: Path) -> None:
    (source.parent / "b.png").unlink()
    picture(source.parent / "middle.bmp", 7)
    manifest = gathered(ingested, tmp_path / "media")
    assert manifest.totals["rejects"] == {"media_changed": 1, "missing_file": 1}
    rejects = read_rejects(tmp_path / "media")
    assert sorted(Path(each["sample_id"]).name for each in rejects) == ["b.png", "middle.bmp"]
    assert manifest.totals["contents"] == 1


def test_a_file_of_another_size_than_when_it_was_gathered_is_read_itself(
    ingested: Path, source: Path, tmp_path: Path
) -> None:
    gathered(ingested, tmp_path / "media")
    picture(source.parent / "b.png", 9)
    with (source.parent / "b.png").open("ab") as file:
        file.write(b"more")
    folder = tokenized(source, tmp_path / "tokens", media_store=[str(tmp_path / "media")])
    totals = Store(folder).manifest.totals
    assert (totals["media_of_stores"], totals["media_stores_outdated"]) == (4, 2)


def test_what_other_media_stores_have_is_left_out(ingested: Path, source: Path, tmp_path: Path) -> None:
    gathered(ingested, tmp_path / "media")
    picture(source.parent / "new.png", 5)
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows[0]["images"] = ["new.png"]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ingest(open_samples(source), IngestConfig(), options(tmp_path / "later"))
    manifest = gathered(tmp_path / "later", tmp_path / "more", (str(tmp_path / "media"),))
    assert (manifest.totals["contents"], manifest.totals["known"]) == (1, 3)
    both = [str(tmp_path / "media"), str(tmp_path / "more")]
    folder = tokenized(tmp_path / "later", tmp_path / "tokens", media_store=both)
    assert Store(folder).manifest.totals["media_of_stores"] == 6


def test_rows_stay_confined(ingested: Path, source: Path, tmp_path: Path) -> None:
    gathered(ingested, tmp_path / "media")
    store = [str(tmp_path / "media")]
    inside = tokenized(source, tmp_path / "a", media_store=store, media_root=[str(source.parent)])
    assert Store(inside).manifest.totals["media_of_stores"] == 6
    (tmp_path / "other").mkdir()
    outside = tokenized(source, tmp_path / "b", media_store=store, media_root=[str(tmp_path / "other")])
    assert Store(outside).manifest.totals["rejects"] == {"outside_media_root": 6}


def freed(tmp_path: Path, ingested: Path, source: Path) -> tuple[Path, Path]:
    """Tokens of the rows but those of b.png, and the media store."""
    gathered(ingested, tmp_path / "media")
    rows = [line for line in source.read_text().splitlines() if "b.png" not in line]
    (source.parent / "some.jsonl").write_text("\n".join(rows) + "\n")
    tokens = tokenized(source.parent / "some.jsonl", tmp_path / "tokens", media_store=[str(tmp_path / "media")])
    return tokens, tmp_path / "media"


def test_what_nothing_refers_to_is_given_back(ingested: Path, source: Path, tmp_path: Path) -> None:
    tokens, media = freed(tmp_path, ingested, source)
    batch = batch_of(tokens)
    before = sum(path.stat().st_size for path in (media / "train").glob("*.arrow"))
    found = gather_free.unused(media, [tokens])
    assert (found.contents, found.bytes) == (1, (source.parent / "b.png").stat().st_size)
    manifest = gather_free.free(media, found)
    assert manifest.totals["contents"] == 2
    must_be_sound(media)
    assert sum(path.stat().st_size for path in (media / "train").glob("*.arrow")) <= before - found.bytes + 4096
    assert np.array_equal(batch, batch_of(tokens))
    assert gather_free.unused(media, [tokens]).contents == 0
    again = tokenized(source, tmp_path / "again", media_store=[str(media)])
    assert Store(again).manifest.totals["media_of_stores"] == 4  # b.png is read itself
    with pytest.raises(InputError, match="no store is named"):
        gather_free.unused(media, [])


def test_a_store_whose_media_were_given_back_is_told_so(ingested: Path, source: Path, tmp_path: Path) -> None:
    tokens, media = freed(tmp_path, ingested, source)
    forgotten = tokenized(source, tmp_path / "forgotten", media_store=[str(media)])
    gather_free.free(media, gather_free.unused(media, [tokens]))
    result = CliRunner().invoke(app, ["verify", str(forgotten), "--processor", "builtin:qwen2.5-vl-mini"])
    assert result.exit_code and "gc --free" in " ".join(result.output.split()), result.output


@pytest.mark.parametrize("stop", range(6))
def test_a_kill_while_it_is_given_back_is_made_good(
    ingested: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    tokens, media = freed(tmp_path, ingested, source)
    batch, found = batch_of(tokens), gather_free.unused(media, [tokens])
    replaced = os.replace
    left = [stop]

    def stopping(old: str, new: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replaced(old, new)

    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        gather_free.free(media, found)
    monkeypatch.undo()
    assert np.array_equal(batch, batch_of(tokens))
    found = gather_free.unused(media, [tokens])
    if found.contents:
        gather_free.free(media, found)
    must_be_sound(media)
    assert not (media / "_work").exists()
    assert open_media_store(media).manifest.totals["contents"] == 2
    assert np.array_equal(batch, batch_of(tokens))


def test_other_stores_are_refused(ingested: Path, tmp_path: Path) -> None:
    gathered(ingested, tmp_path / "media")
    with pytest.raises(StoreError, match="is a media store"):
        Store(tmp_path / "media")
    with pytest.raises(StoreError, match="`gather` is needed"):
        tokenized(ingested, tmp_path / "tokens", media_store=[str(ingested)])
