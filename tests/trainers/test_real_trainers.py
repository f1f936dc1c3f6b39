"""Other trainers' real packages beside our stores, each in an environment of its own: `make test-trainers`.

The trainer's own pipeline reads the raw chats, or what `export` wrote for it; a tiny random model trains 20 steps on
its batches, and the same model on ours. Trained positions are those of the trainer's label convention.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_prep.builtin import builtin_data
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.ingest.source import open_samples
from vlm_prep.media.image import load_rgb
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.load import resolve
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.shards.reader import Store
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.trainers.exporting import export

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "trainers"
REAL = Path(__file__).parent / "real"
PROCESSOR = "builtin:qwen2.5-vl-mini"


@dataclass
class Case:
    """A processor, a tiny model for it, and what a trainer is given."""

    processor: str
    model: Path
    store: Path
    rows: Path
    """The chats as these trainers' users write them: texts with <image>, and the pictures' paths."""

    def run(self, trainer: str, exported: Path, what: str = "run") -> dict[str, Any]:
        """Return what a script of the trainer says, in the trainer's environment."""
        python = ROOT / f".venv-trainers-{trainer}" / "bin" / "python"
        script = REAL / f"{trainer.replace('-', '_').removeprefix('nemo_')}_{what}.py"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{REAL}",
            "DISABLE_VERSION_CHECK": "1",  # LLaMA-Factory's own word for newer versions of transformers
            "HF_HUB_OFFLINE": "1",
            "AXOLOTL_DO_NOT_TRACK": "1",
        }
        out = self.rows.with_name("out.json")
        line = [str(python), str(script), str(self.model), str(self.rows), str(exported), str(out)]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=out.parent, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    def losses(self, shuffled: ShardDataset | None = None) -> list[float]:
        """Return those of the model on our batches, of two rows, in the store's order or in that of a dataset."""
        ensure_torchvision()
        sys.path.insert(0, str(REAL))
        model_of = importlib.import_module("model").model_of
        torch.set_num_threads(1)
        rows = shuffled or ShardDataset(self.store, shuffle=False)
        sampler = rows.sampler()
        collate, model, losses = PadCollate.for_store(rows, shift=False, counts=False), model_of(str(self.model)), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(20):
            epoch, first = divmod(2 * step, len(rows))
            sampler.set_epoch(epoch)
            loss = model(**collate([rows[pick] for pick in list(sampler)[first : first + 2]])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def columns(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return ids and labels of the store."""
        rows = list(Store(self.store).rows())
        return [row["input_ids"].tolist() for row in rows], [row["labels"].tolist() for row in rows]


@pytest.fixture
def case(options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`case(trainer, convention, processor)`: chats about photographs; skips where the trainer is not there."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def make(trainer: str, convention: Any, processor: str = PROCESSOR, rows: int = 4, **ids: int) -> Case:
        if not (ROOT / f".venv-trainers-{trainer}" / ".ready").exists():
            pytest.skip(f"{trainer} is not installed: `make test-trainers`")
        store, model = tmp_path / "tok", tmp_path / "model"
        samples = open_samples(builtin_data().parent / "photo_talk.jsonl", limit=rows)
        tokenize(samples, processor, TokenizeConfig(label_convention=convention), options(store))
        shutil.copytree(resolve(processor), model)
        config = importlib.import_module("tiny_model").tiny_model().config
        config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
        for name, value in ids.items():
            setattr(config.text_config if name == "vocab_size" else config, name, value)
        config.save_pretrained(model)
        chats = []
        for row in Store(store).rows():
            messages = json.loads(row["conversation"])["messages"]
            paths: list[str] = []
            for media in row["media"]:
                # upright, which LLaMA-Factory's own reader does not make them
                path = tmp_path / f"{row['sample_id'].replace('/', '-')}-{len(paths)}.png"
                load_rgb(bytes(media["files"][0]["bytes"])).save(path)
                paths.append(str(path))
            turns = [{"role": each["role"], "content": text_of(each["content"])} for each in messages]
            chats.append({"messages": turns, "images": paths})
        (tmp_path / "rows.json").write_text(json.dumps(chats))
        return Case(processor, model, store, tmp_path / "rows.json")

    return make


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "<image>") for part in content)


def test_llamafactory(case: Any, tmp_path: Path) -> None:
    made = case("llamafactory", "llamafactory")
    export(made.store, "llamafactory", tmp_path / "export")
    found = made.run("llamafactory", tmp_path / "export")
    ids, labels = made.columns()
    assert found["ids"] == found["exported_ids"] == ids
    assert found["labels"] == found["exported_labels"] == labels
    assert found["exported_losses"] == found["raw_losses"] == pytest.approx(made.losses(), rel=1e-5)


def test_ms_swift(case: Any, tmp_path: Path, processors: Path) -> None:
    """It looks for pictures under the ids of Qwen's own vocabulary."""
    special = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652}
    made = case("ms-swift", "ms-swift", str(processors / "qwen2_5_vl"), vocab_size=152064, **special)
    export(made.store, "ms-swift", tmp_path / "export")
    found = made.run("ms-swift", tmp_path / "export")
    ids, labels = made.columns()
    assert found["exported_ids"] == ids
    assert found["exported_labels"] == labels
    assert found["exported_losses"] == pytest.approx(made.losses(), rel=1e-5)


def test_automodel(case: Any, tmp_path: Path) -> None:
    made = case("nemo-automodel", "automodel")
    found = made.run("nemo-automodel", tmp_path)
    ids, labels = made.columns()
    for row in range(len(ids)):
        length = len(ids[row])
        assert found["ids"][row][: length - 1] == ids[row][:-1]
        assert found["shifted"][row][: length - 1] == labels[row][1:]
    # its pixels are bfloat16: losses differ by what that rounds away
    assert found["raw_losses"] == pytest.approx(made.losses(), rel=1e-3)


def test_packs_are_laid_out_by_automodels_packed_contracts(case: Any, options: Any, tmp_path: Path) -> None:
    made = case("nemo-automodel", "automodel", rows=8)
    pack(made.store, PackConfig(pack_length=1280), options(tmp_path / "packed"))
    found = made.run("nemo-automodel", tmp_path / "packed", "packed")
    assert set(found) == {"sdpa", "document_ids", "varlen", "thd"}
    assert found["varlen"].pop("ours") == ["use_cache"]
    shapes = found["varlen"].pop("position_ids")  # ours have the text's own axis in front, as transformers' flash reads
    assert shapes == [[4, 2, 1536], [3, 2, 1536]]
    for contract in found.values():
        assert contract.pop("ours", []) == contract.pop("theirs") == []
        assert len(contract) > 7
        assert set(contract.values()) == {0}


def test_automodels_packs_train_like_ours_and_like_their_documents_alone(
    case: Any, options: Any, tmp_path: Path
) -> None:
    made = case("nemo-automodel", "automodel", rows=8)
    pack(made.store, PackConfig(pack_length=1280), options(tmp_path / "packed"))
    found = made.run("nemo-automodel", tmp_path / "packed", "losses")
    assert found["contract"] == "block_causal"
    assert found["documents"] > found["packs"] > 1
    assert found["ours"] == found["theirs"]
    assert found["ours"] == pytest.approx(found["alone"], rel=1e-5)
    # some models of its own read these; stock attention lets documents see each other, and says nothing
    assert found["document_ids"] != pytest.approx(found["alone"][:1], rel=1e-4)


def test_megatron_reads_its_index(options: Any, tmp_path: Path) -> None:
    python = ROOT / ".venv-trainers-megatron-core" / "bin" / "python"
    if not python.exists():
        pytest.skip("megatron-core is not installed: `make test-trainers`")
    samples = open_samples(builtin_data(), datasets=["tool_talk"])
    tokenize(samples, PROCESSOR, TokenizeConfig(), options(tmp_path / "tok"))
    export(tmp_path / "tok", "megatron-indexed", tmp_path / "export")
    line = [str(python), str(REAL / "megatron_core_run.py"), str(tmp_path / "export"), str(tmp_path / "out.json")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found, rows = json.loads((tmp_path / "out.json").read_text()), list(Store(tmp_path / "tok").rows())
    assert found["tokens"] == [row["input_ids"].tolist() for row in rows]
    assert found["labels"] == [row["labels"].tolist() for row in rows]
    assert found["documents"] == list(range(len(rows) + 1))


def test_energon_reads_every_row_with_its_media_also_on_two_ranks(options: Any, tmp_path: Path) -> None:
    python = ROOT / ".venv-trainers-energon" / "bin" / "python"
    if not python.exists():
        pytest.skip("megatron-energon is not installed: `make test-trainers`")
    samples = open_samples(builtin_data().parent / "photo_talk.jsonl")
    tokenize(samples, PROCESSOR, TokenizeConfig(), options(tmp_path / "tok"))
    pack(tmp_path / "tok", PackConfig(pack_length=2048, layout="ranks"), options(tmp_path / "packed"))
    for store in (tmp_path / "tok", tmp_path / "packed"):
        places = [str(store), str(tmp_path / f"{store.name}-export"), str(tmp_path / "out.json")]
        line = [str(python), str(REAL / "energon_run.py"), *places]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        found, rows = json.loads((tmp_path / "out.json").read_text()), list(Store(store).rows())
        assert found["exported"] == len(rows) > 1
        for read in (found["rows"], sorted(found["of_two"], key=lambda row: int(row["__key__"]))):
            assert [row["arrays"]["input_ids"] for row in read] == [row["input_ids"].tolist() for row in rows]
            assert [row["arrays"]["labels"] for row in read] == [row["labels"].tolist() for row in rows]
            files = [[bytes(file["bytes"]) for item in row["media"] for file in item["files"]] for row in rows]
            assert [row["files"] for row in read] == [[hashlib.sha256(each).hexdigest() for each in of] for of in files]


def test_axolotl(case: Any) -> None:
    made = case("axolotl", "ours")
    found = made.run("axolotl", made.store)
    ids, labels = made.columns()
    assert found["ids"] == ids
    assert found["labels"] == labels
    assert found["raw_losses"] == pytest.approx(made.losses(), rel=1e-5)
    rows = ShardDataset(made.store, seed=3)
    assert found["store_losses"] == pytest.approx(made.losses(rows), rel=1e-5)
    assert (found["state"]["epoch"], found["state"]["consumed"]) == (10, 0)


def test_torchtitan(case: Any, options: Any, tmp_path: Path) -> None:
    made = case("torchtitan", "ours", rows=12)
    pack(made.store, PackConfig(pack_length=1280), options(tmp_path / "packed"))
    found = made.run("torchtitan", tmp_path / "packed")
    assert len(found["differences"]) > 1
    for each in found["differences"]:
        pixels = each.pop("pixel_values")
        assert pixels < 1e-5
        assert set(each.values()) == {0}
    assert found["resumed"]


def test_torchtitan_takes_up_a_checkpoint_of_two_ranks_with_one_and_with_three(
    case: Any, options: Any, tmp_path: Path
) -> None:
    made = case("torchtitan", "ours", rows=12)
    # as many packs as an epoch needs to go on without repeats
    packs = pack(made.store, PackConfig(pack_length=1280, pack_documents=1), options(tmp_path / "packed"))
    assert packs is not None
    assert packs.totals["packs"] > 10
    found = made.run("torchtitan", tmp_path / "packed", "resume")
    assert found.pop("different") == 10
    assert found == {"2": True, "1": True, "3": True}
