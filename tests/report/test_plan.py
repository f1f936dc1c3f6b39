"""The plan of all rows is what tokenize and pack then make; the plan of some of them holds it in its intervals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import vlm_prep.report.plan.planning as plan_module
from vlm_prep.builtin import builtin_data, builtin_processor
from vlm_prep.core.errors import InputError
from vlm_prep.core.pack_settings import PackConfig
from vlm_prep.core.settings import MediaMode, TokenizeConfig
from vlm_prep.engine.stage import RunOptions
from vlm_prep.ingest.source import Samples, open_samples
from vlm_prep.pack.pack_run import pack
from vlm_prep.report.plan.estimate import SampleSize
from vlm_prep.report.plan.plan_text import render
from vlm_prep.report.plan.planning import Choices, plan
from vlm_prep.shards.manifest import Manifest
from vlm_prep.tokenize.tokenize_run import tokenize

sys.path.insert(0, str(Path(__file__).parents[1]))

from chat_styles import STYLES

PROCESSOR = "builtin:qwen2.5-vl-mini"
FPS = TokenizeConfig(fps=2.0)
ALL = SampleSize(fraction=1.0)
Options = Callable[..., RunOptions]


def shard_bytes(manifest: Manifest) -> int:
    return sum(info.bytes for _, info in manifest.shards())


def known(number: dict[str, int]) -> int:
    """The value of a number that is exact."""
    assert number["low"] == number["value"] == number["high"]
    return number["value"]


def must_equal_a_run(
    found: dict[str, Any], samples: Samples, processor: str, config: TokenizeConfig, folder: Path, options: Options
) -> None:
    """Compare a plan of all rows with tokenize and pack, for each payload mode and length."""
    assert found["exact"]
    for media in get_args(MediaMode):
        run = options(folder / media, max_reject_rate=1.0)
        made = tokenize(samples, processor, TokenizeConfig(**{**vars(config), "media": media}), run)
        assert made
        totals = made.totals
        assert known(found["disk"][media]) == shard_bytes(made)
        rejects = found["rejects_by_media"][media]
        assert {reason: known_of(number) for reason, number in rejects.items()} == totals["rejects"]
    assert [known(found[name]) for name in ("written", "tokens", "trained_tokens")] == [
        totals[name] for name in ("rows_written", "tokens", "trained_tokens")
    ]
    for each in found["lengths"]:
        length = each["max_length"]
        out = folder / f"{length}"
        limited = TokenizeConfig(**{**vars(config), "max_length": length})
        made = tokenize(samples, processor, limited, options(out, max_reject_rate=1.0))
        assert made
        assert known(each["too_long"]) == made.totals["rejects"].get("overlong", 0)
        assert known(each["tokens"]) == made.totals["tokens"]
        disk = each["disk"]["encoded"]
        assert disk["low"] * 0.99 <= shard_bytes(made) <= disk["high"] * 1.01
        assert found["shared_bytes_seen"]["encoded"] or disk["high"] <= disk["low"] * 1.01 + 4096
        packed = pack(out, PackConfig(pack_length=length, layout="index"), options(folder / f"{length}p"))
        assert packed
        packs = packed.totals
        assert (known(each["packs"]), each["fill"]) == (packs["packs"], packs["fill"])


def known_of(number: dict[str, int]) -> int:
    assert number["seen"] == known(number)
    return number["seen"]


@pytest.fixture(scope="module")
def whole(options: Options) -> dict[str, Any]:
    """The plan of all rows of the built-in data."""
    choices = Choices(lengths=(512, 2048), budgets=(200_704,))
    return plan(open_samples(builtin_data()), PROCESSOR, FPS, options(Path()), choices)


def test_the_plan_of_all_built_in_rows_is_what_tokenize_and_pack_make(
    whole: dict[str, Any], tmp_path: Path, options: Options
) -> None:
    must_equal_a_run(whole, open_samples(builtin_data()), PROCESSOR, FPS, tmp_path, options)


def test_every_payload_mode_has_its_disk_and_time(whole: dict[str, Any]) -> None:
    modes = set(get_args(MediaMode))
    assert set(whole["disk"]) == modes
    times = whole["time"]["settings"]
    assert {(each["media"], each["max_pixels"]) for each in times} == {
        (mode, budget) for mode in modes for budget in (None, 200_704)
    }
    for each in times:
        assert 0 < each["cpu_seconds"]["low"] <= each["cpu_seconds"]["value"] <= each["cpu_seconds"]["high"]
        assert each["comparing_cpu_seconds"] > 0


def test_a_pixel_budget_is_what_a_run_with_that_setting_makes(
    whole: dict[str, Any], tmp_path: Path, options: Options
) -> None:
    (tried,) = whole["budgets"]["tried"]
    config = TokenizeConfig(fps=2.0, max_pixels=200_704)
    made = tokenize(open_samples(builtin_data()), PROCESSOR, config, options(tmp_path / "out"))
    assert made
    assert known(tried["tokens"]) == made.totals["tokens"] < known(whole["tokens"])
    assert known(tried["disk"]["encoded"]) == shard_bytes(made)


def test_a_plan_of_all_rows_says_that_its_counts_are_exact_and_its_times_are_not(whole: dict[str, Any]) -> None:
    text = render(whole)
    assert "all of them looked at: counts are exact, times are not" in text
    assert "15,101" in text
    assert "±" not in text


def test_the_kit_s_rows_with_a_real_processor(kit: Path, processors: Path, tmp_path: Path, options: Options) -> None:
    datasets = ["mllm_image", "toolcall_en", "lmdb"]
    samples = open_samples(kit / "data" / "meta.json", datasets=datasets)
    config = TokenizeConfig(tool_text="reject", verify_fraction=0.0)
    name = str(processors / "qwen2_5_vl")
    found = plan(samples, name, config, options(Path()), Choices(lengths=(1024,), budgets=(), size=ALL))
    assert found["rejects"]
    must_equal_a_run(found, samples, name, config, tmp_path, options)


# ---- a sample ----


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows: pictures of many sizes, texts of many lengths, files that are missing, rows that are none."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(7)
    lines = []
    for number in range(400):
        words = " ".join(["word"] * int(random.lognormal(4.0, 0.8)))
        images = []
        if number % 3 == 0:
            height, width = (int(side) for side in random.integers(60, 500, 2))
            images = [f"{number}.png"]
            Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(folder / images[0])
        if random.random() < 0.08:
            images = ["gone.png"]
        question = "<image>" * len(images) + "What? " + words
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": words}]
        row = json.dumps({"messages": messages, "images": images})
        lines.append(row if random.random() > 0.04 else row[:-2])
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "rows.jsonl"


def leaves(found: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, int]]:
    """The numbers with an interval, by their place."""
    if isinstance(found, dict) and {"value", "low", "high"} <= set(found):
        return {path: found}
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return {at: leaf for key, value in items for at, leaf in leaves(value, (*path, str(key))).items()}


def counts(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "time"}


def test_a_quarter_of_the_rows_holds_the_whole_in_its_intervals(corpus: Path, options: Options) -> None:
    samples = open_samples(corpus)
    choices = Choices(lengths=(256, 1024), budgets=(50_176,), size=SampleSize(fraction=0.25))
    part = plan(samples, PROCESSOR, TokenizeConfig(), options(Path()), choices)
    truth = plan(samples, PROCESSOR, TokenizeConfig(), options(Path()), Choices(**{**vars(choices), "size": ALL}))
    assert (part["sampled"], part["rows"], part["exact"]) == (100, 400, False)
    estimated, real = leaves(counts(part)), leaves(counts(truth))
    assert set(truth["rejects"]) == {"missing_file", "bad_json"}
    assert estimated.keys() == real.keys()
    missed = [at for at in real if not estimated[at]["low"] <= real[at]["value"] <= estimated[at]["high"]]
    assert len(missed) <= len(real) / 20  # they are 95 % intervals
    must = {"tokens", "trained_tokens", "written", "rejects", "disk"}
    assert [at for at in missed if at[0] in must] == []
    tokens = part["tokens"]
    assert tokens["value"] * 0.5 < tokens["low"] < tokens["value"] < tokens["high"] < tokens["value"] * 1.5


def test_a_sample_s_text_states_what_it_is_and_gives_no_estimate_as_exact(corpus: Path, options: Options) -> None:
    choices = Choices(lengths=(1024,), budgets=(), size=SampleSize(rows=100))
    found = plan(open_samples(corpus), PROCESSOR, TokenizeConfig(), options(Path()), choices)
    text = render(found)
    assert "100 of 400 looked at (25.0%)" in text
    assert f"{found['tokens']['value']:,}" not in text
    line = next(line for line in text.splitlines() if line.startswith("  tokens"))
    assert line.count("±") == 2
    assert "a reason that was not seen: at most" in text


def test_two_plans_differ_in_times_only(corpus: Path, options: Options) -> None:
    choices = Choices(lengths=(1024,), budgets=(), size=SampleSize(rows=60))
    first, second = (
        plan(open_samples(corpus), PROCESSOR, TokenizeConfig(), options(Path(), workers=workers), choices)
        for workers in (0, 2)
    )
    assert counts(first) == counts(second)


def test_nothing_is_left_behind(
    corpus: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan(open_samples(corpus, limit=10), PROCESSOR, TokenizeConfig(), options(Path()), Choices(budgets=()))
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_crashes_its_worker_is_a_reject_of_the_plan(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "engine" / "planted"))
    import poison_media

    monkeypatch.setattr(plan_module, "SurveyJob", poison_media.PoisonedSurveyJob)
    shutil.copy(builtin_data().parent / "photos" / "chelsea.jpg", tmp_path / "good.jpg")
    names = ["good.jpg"] * 5 + [poison_media.write_poison(tmp_path, "crash")] + ["good.jpg"] * 5
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]
    rows = [json.dumps({"messages": messages, "images": [name]}) for name in names]
    (tmp_path / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))
    said: list[str] = []
    run = options(Path(), workers=1, say=said.append)
    found = plan(open_samples(tmp_path / "rows.jsonl"), PROCESSOR, TokenizeConfig(), run, Choices(budgets=()))
    assert {name: number["seen"] for name, number in found["rejects"].items()} == {"worker_crashed": 1}
    assert known(found["written"]) == 10
    assert sum("row 5 would be rejected, worker_crashed" in line for line in said) == 1


def test_documents_of_a_split_row_are_counted_and_its_length_is_that_of_its_longest(
    tmp_path: Path, options: Options
) -> None:
    processor = tmp_path / "thinker"
    shutil.copytree(builtin_processor("qwen2.5-vl-mini"), processor)
    (processor / "chat_template.jinja").write_text(STYLES["qwen3"].template)
    turns = [("user", "A?"), ("assistant", "<think>why</think>a"), ("user", "B?"), ("assistant", "<think>so</think>b")]
    rows = [[{"role": role, "content": text} for role, text in turns[:count]] for count in (4, 2)] * 20
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    config = TokenizeConfig(rewritten_history="split")
    samples = open_samples(tmp_path / "rows.jsonl")
    found = plan(samples, str(processor), config, options(Path()), Choices(lengths=(35, 256), budgets=(), size=ALL))
    assert (known(found["written"]), known(found["documents"])) == (40, 60)
    must_equal_a_run(found, samples, str(processor), config, tmp_path, options)
    assert known(found["lengths"][0]["too_long"]) == 20


# ---- budgets ----


def test_budgets_by_default_are_below_the_processor_s_own(corpus: Path, options: Options) -> None:
    found = plan(open_samples(corpus, limit=4), PROCESSOR, TokenizeConfig(), options(Path()), Choices(lengths=(512,)))
    tried = [each["max_pixels"] for each in found["budgets"]["tried"]]
    assert tried == [tokens * 28 * 28 for tokens in (256, 1024, 4096)]
    assert max(tried) < found["budgets"]["own"] == 12_845_056
    assert [line.split()[0] for line in render(found).splitlines()[-4:]] == [
        f"{budget:,}" for budget in (*tried, 12_845_056)
    ]


def test_a_budget_below_the_processor_s_least_is_refused(corpus: Path, options: Options) -> None:
    with pytest.raises(InputError, match="the processor's least is 3136"):
        plan(open_samples(corpus, limit=4), PROCESSOR, TokenizeConfig(), options(Path()), Choices(budgets=(100,)))


def test_a_family_without_a_pixel_budget_says_so(kit: Path, tmp_path: Path, options: Options) -> None:
    script = str(kit / "processors" / "assemble.py")
    subprocess.run([sys.executable, script, str(tmp_path), "internvl3"], check=True, capture_output=True)
    samples = open_samples(builtin_data(), datasets=["photo_talk"], limit=4)
    config = TokenizeConfig(verify_fraction=0.0)
    found = plan(samples, str(tmp_path / "internvl3"), config, options(Path()), Choices(lengths=(2048,)))
    assert (found["budgets"]["own"], found["budgets"]["tried"]) == (None, [])
    assert "no pixel budgets: GotOcr2ImageProcessor has no setting max_pixels" in render(found)
