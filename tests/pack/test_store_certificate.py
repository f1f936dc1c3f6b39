"""The certificate travels with the packs: real ones beside their documents alone, what does not pass is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vlm_prep.certify.store_packs as store_packs
from vlm_prep.certify.certificate import default_config, take_ids
from vlm_prep.certify.store_packs import certify_packs
from vlm_prep.cli.main import main
from vlm_prep.core.errors import InputError, StoreError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.pack.pack_run import pack
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.report.statistics import collect, render
from vlm_prep.stream import PackedCollate, ShardDataset

Options = Callable[..., RunOptions]
Tree = Callable[[Path], dict[str, str]]
FORMS = {"sdpa": "equal", "positions": "equal", "varlen": "equal", "document_ids": "refused", "thd": "refused"}


@pytest.fixture(scope="module", autouse=True)
def _few_packs() -> Iterator[None]:
    """Two packs say as much here as four."""
    before, store_packs.PACKS = store_packs.PACKS, 2
    yield
    store_packs.PACKS = before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, loaded: Callable[[str], LoadedProcessor]) -> str:
    """The folder of the model that the built-in processor's tokens belong to: config.json alone."""
    adapter = adapter_for(loaded("builtin"))
    config = default_config(adapter.hf)
    take_ids(config, adapter)
    config.vision_config.tokens_per_second = 2  # the published one, which packs have without a config
    folder = tmp_path_factory.mktemp("model")
    config.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def certified(tokenized: Path, model: str, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certified") / "packed"
    pack(tokenized, PackConfig(pack_length=2048, world_size=2, certify=True, model=model), options(out))
    return out


def verdicts(certificate: dict[str, Any]) -> dict[str, str]:
    return {each["form"]: each["verdict"] for each in certificate["findings"]}


def test_the_certificate_stands_in_the_manifest_and_in_the_statistics(certified: Path) -> None:
    found = collect(certified)["certificate"]
    assert verdicts(found) == FORMS
    assert found["passed"]
    assert (found["model"], found["packs"], found["documents"] > 4) == ("qwen2_5_vl", 2, True)
    text = render(collect(certified))
    assert "certificate passed: tiny qwen2_5_vl, 2 packs" in text
    assert "varlen        flash_attention_2  equal" in text


def test_packs_of_each_mixture_of_kinds_are_compared(certified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_packs, "PACKS", 4)
    kinds = ShardDataset(certified).kinds()
    known = store_packs._Known(certified, ShardDataset(certified).manifest, trust_remote_code=False)
    chosen = store_packs._chosen(known, store_packs._rows_of_packs(known, 10**6))
    assert {int(kinds[number]) for number in chosen} == {int(each) for each in kinds}


def test_a_certified_store_gives_out_the_forms_that_passed(certified: Path) -> None:
    packs = ShardDataset(certified)
    assert PackedCollate.for_store(packs).mask == "sdpa"
    assert PackedCollate.for_store(packs, attention="flash_attention_2").mask == "varlen"


@pytest.fixture(scope="module")
def wrong(tokenized: Path, model: str, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of a model with mRoPE whose positions are plain ones."""
    out = tmp_path_factory.mktemp("wrong") / "packed"
    pack(tokenized, PackConfig(pack_length=2048, certify=True, model=model, positions="plain"), options(out))
    return out


def test_packs_that_compute_something_else_do_not_pass(wrong: Path) -> None:
    found = collect(wrong)["certificate"]
    assert not found["passed"]
    assert {form for form, verdict in verdicts(found).items() if verdict == "different"} == {
        "sdpa",
        "positions",
        "varlen",
    }
    assert "certificate NOT PASSED" in render(collect(wrong))


@pytest.mark.parametrize("mask", ["sdpa", "positions", "varlen", None])
def test_a_form_that_did_not_pass_is_refused(wrong: Path, mask: Any) -> None:
    attention = "flash_attention_2" if mask == "varlen" else "sdpa"
    with pytest.raises(InputError, match=r"the store's certificate says so: .* a tiny qwen2_5_vl computes"):
        PackedCollate.for_store(ShardDataset(wrong), mask=mask, attention=attention)


def test_the_next_form_is_taken_where_one_did_not_pass(certified: Path) -> None:
    packs = ShardDataset(certified)
    certificate = json.loads(json.dumps(packs.manifest.extra["certificate"]))
    next(each for each in certificate["findings"] if each["form"] == "sdpa")["verdict"] = "different"
    instead: dict[str, Any] = {"certificate": certificate}
    assert PackedCollate.for_store(packs, **instead).mask == "positions"
    with pytest.raises(InputError) as error:
        PackedCollate.for_store(packs, mask="sdpa", **instead)
    assert error.value.hint == "use mask='positions'"


def test_what_is_made_after_an_end_in_the_comparison_is_the_same(
    tokenized: Path,
    certified: Path,
    model: str,
    options: Options,
    tree: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PackConfig(pack_length=2048, world_size=2, certify=True, model=model)
    out = tmp_path / "packed"

    def ends(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store_packs, "certify_packs", ends)
        with pytest.raises(KeyboardInterrupt):
            pack(tokenized, config, options(out))
    assert not (out / "manifest.json").exists()
    pack(tokenized, config, options(out))
    ours, theirs = ({k: v for k, v in tree(each).items() if k != "run.yaml"} for each in (out, certified))
    said = [json.loads((each / "manifest.json").read_bytes()) for each in (out, certified)]
    assert said[0]["extra"]["certificate"] == said[1]["extra"]["certificate"]
    assert {k: v for k, v in ours.items() if k != "manifest.json"} == {
        k: v for k, v in theirs.items() if k != "manifest.json"
    }


def test_an_index_is_certified(tokenized: Path, model: str, options: Options, tmp_path: Path) -> None:
    config = PackConfig(pack_length=2048, layout="index", certify=True, model=model)
    pack(tokenized, config, options(tmp_path / "index"))
    assert verdicts(collect(tmp_path / "index")["certificate"]) == FORMS


def test_a_long_pack_is_compared_by_its_first_documents(certified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_packs, "TOKENS", 1200)
    found = certify_packs(certified)
    assert found.passed
    assert found.tokens <= 2 * 1200
    assert found.notes == ("packs of more than 1200 tokens were compared by their first documents",)


def test_packs_in_another_order_than_their_documents_do_not_pass(
    certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collated = PackedCollate.__call__

    def swapped(self: PackedCollate, items: Any) -> Any:
        batch = collated(self, items)
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].flip(0)
        return batch

    monkeypatch.setattr(PackedCollate, "__call__", swapped)
    assert not certify_packs(certified).passed


def test_the_model_must_be_known_before_anything_is_packed(tokenized: Path, options: Options, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`certify` needs the model's config\.json") as error:
        pack(tokenized, PackConfig(pack_length=2048, certify=True), options(tmp_path / "packed"))
    assert "model=FOLDER" in str(error.value.hint)
    assert not (tmp_path / "packed").exists()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vlm-prep", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_verify_compares_packs(
    packed: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify", str(packed), "--packs", "--model", model, "--json") == 0
    assert verdicts(json.loads(capsys.readouterr().out)["certificate"]) == FORMS
    config = json.loads(Path(model, "config.json").read_text())
    config["vision_config"]["tokens_per_second"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run(monkeypatch, "verify", str(packed), "--packs", "--model", str(tmp_path / "config.json")) == 4
    assert "different" in capsys.readouterr().out


def test_packs_whose_documents_are_gone_cannot_be_compared(certified: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(certified, tmp_path / "elsewhere" / "packed")
    with pytest.raises(StoreError):
        certify_packs(alone)


@pytest.mark.parametrize("rows", [[[-1]], [[10**9]], [], [None], ["x"], None], ids=repr)
def test_a_plan_that_is_none_of_these_packs_is_refused(certified: Path, rows: Any) -> None:
    store = certified.with_name("planned")  # beside it: the manifest says from there where the tokenized store is
    shutil.copytree(certified, store, dirs_exist_ok=True)
    plan = store / "plan.parquet"
    if rows is None:
        plan.write_bytes(b"PAR1" * 10)
    else:
        whole = pq.read_table(plan)
        pq.write_table(pa.table({"rows": pa.array(rows * (len(whole) if rows else 1))}), plan)
    with pytest.raises(StoreError, match=r"plan\.parquet is missing or damaged"):
        certify_packs(store)
