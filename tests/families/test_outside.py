"""Families from outside the package, and processors that another architecture borrows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from families.rows import Made, picture, row
from sources import Rows
from typer.testing import CliRunner

from vlm_prep.builtin import builtin_data
from vlm_prep.cli.main import app
from vlm_prep.core.errors import ProcessorError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.records import Encoded
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.run_options import RunOptions
from vlm_prep.ingest.source import open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.stream import PadCollate, ShardDataset
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.tokenize_run import tokenize
from vlm_prep.tokenize.verify.store import check_store

Options = Callable[..., RunOptions]
PROCESSOR = "builtin:qwen2.5-vl-mini"

FAMILY = """\
import numpy as np
from vlm_prep.processors.adapter import Adapter

class Llava(Adapter):
    family = "llava"
    levels = {"image": "formula"}

    def image_inputs(self, sizes):
        crop = self.hf.image_processor.crop_size
        one = np.broadcast_to(np.zeros(1, np.float32), (3, crop["height"], crop["width"]))
        return {"pixel_values": [one] * len(sizes)}
"""
ENTRY = "[vlm_prep.families]\nLlavaProcessor = llava_family:{}\n"
METADATA = "Metadata-Version: 2.1\nName: llava-family\nVersion: 1.0\n"


def install(folder: Path, attribute: str) -> None:
    """What `pip install` leaves of a package of 25 lines."""
    (folder / "llava_family.py").write_text(FAMILY)
    about = folder / "llava_family-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA)
    (about / "entry_points.txt").write_text(ENTRY.format(attribute))
    assert len((FAMILY + ENTRY + METADATA).splitlines()) <= 25


def test_an_installed_package_adds_a_family(
    made: Made, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "Llava")
    monkeypatch.syspath_prepend(tmp_path)
    data = kit / "data"
    samples = (row("one", picture(data, "coffee.png")), row("two", *[picture(data, "china_6x5.png")] * 2))
    job = TokenizeJob(Rows(samples), str(made("LlavaProcessor")), TokenizeConfig())
    job.setup()
    assert (job.encoder.adapter.family, job.encoder.adapter.level) == ("llava", "formula")
    assert job.encoder.adapter.loaded.identity["family_from"] == "llava-family 1.0"
    for result in job.results(0, 2):
        assert isinstance(result, Encoded)
        assert job.oracle.compare(row_of(result)).differences == ()


def test_its_store_is_packed_read_and_verified_also_where_the_package_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    about = tmp_path / "plain_family-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA.replace("llava", "plain"))
    (about / "entry_points.txt").write_text("[vlm_prep.families]\nQwen2_5_VLProcessor = plain_family:Plain\n")
    code = "from vlm_prep.processors.adapter import Adapter\n\n\nclass Plain(Adapter):\n    family = 'plain'\n"
    (tmp_path / "plain_family.py").write_text(code)
    store = tmp_path / "tok"
    with monkeypatch.context() as installed:
        installed.syspath_prepend(tmp_path)
        assert "plain-family 1.0" in CliRunner().invoke(app, ["doctor", "-p", PROCESSOR]).output
        samples = open_samples(builtin_data(), datasets=("photo_talk",), limit=3)
        tokenize(samples, PROCESSOR, TokenizeConfig(), options(store))
        assert check_store(store, processor=PROCESSOR).identity == []
    with pytest.raises(
        StoreError, match=r"family plain of plain-family 1\.0; here it is qwen2_5_vl of vlm-prep\n  install plain"
    ):
        check_store(store, processor=PROCESSOR)
    pack(store, PackConfig(pack_length=4096), options(tmp_path / "packed"))
    rows = ShardDataset(store)
    batch = PadCollate.for_store(rows)([rows[0]])
    assert batch["image_grid_thw"].shape == (1, 3) and "pixel_values" in batch


def test_a_family_that_does_not_load_names_its_package(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "Lama")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProcessorError, match=r"family of LlavaProcessor in llava-family 1\.0 does not load"):
        adapter_for(load_processor(str(made("LlavaProcessor"))))


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("Gemma3Processor", {"model_type": "t5gemma2", "is_encoder_decoder": True}, "encoder-decoder"),
        ("Gemma3Processor", {"model_type": "t5gemma2"}, "encoder-decoder"),
        ("Gemma4Processor", {"model_type": "diffusion_gemma"}, "noised tokens"),
    ],
)
def test_a_borrowed_processor_is_not_taken_for_its_lender(
    made: Made, tmp_path: Path, name: str, model: dict[str, object], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made(name), folder)
    assert adapter_for(load_processor(str(folder)))
    (folder / "config.json").write_text(json.dumps(model))
    with pytest.raises(ProcessorError, match=said):
        adapter_for(load_processor(str(folder)))


def test_whatever_a_processor_raises_is_a_sentence(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_processor(str(made("Gemma3Processor")))
    monkeypatch.setattr(type(loaded.hf.tokenizer), "convert_tokens_to_ids", lambda *_: 1 / 0)
    with pytest.raises(ProcessorError, match="Gemma3Processor is not understood: its code fails in test_outside"):
        adapter_for(loaded)


@pytest.mark.parametrize("name", ["Idefics2Processor", "GotOcr2Processor", "FuyuProcessor", "PI0Processor"])
def test_doctor_says_in_one_sentence_what_serves_no_chat(made: Made, name: str) -> None:
    result = CliRunner().invoke(app, ["doctor", "--processor", str(made(name))])
    assert isinstance(result.exception, ProcessorError)
    assert name in result.exception.message


def test_doctor_turns_whatever_is_raised_into_a_sentence(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_prep.tokenize.encoder.ChatTemplate", Mock(side_effect=KeyError("a fault")))
    result = CliRunner().invoke(app, ["doctor", "--processor", str(made("LlavaProcessor"))])
    assert isinstance(result.exception, ProcessorError)
    assert "LlavaProcessor is not understood: its code fails in " in result.exception.message


def test_doctor_tells_the_positions_of_a_model_that_borrows_a_processor(made: Made, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "glm4v"}')
    processor = str(made("LlavaProcessor"))
    for told, model in (("plain\n", []), ("the model's own: ", ["--model", str(tmp_path)])):
        result = CliRunner().invoke(app, ["doctor", "--processor", processor, *model])
        assert f"positions            {told}" in result.output


def test_families_prints_the_table() -> None:
    result = CliRunner().invoke(app, ["families"])
    assert result.exit_code == 0
    assert "| LlavaProcessor | generic | image formula |  | sdpa, varlen |" in result.output
