"""Rows that are rare, and rows that the real processor cannot take: found for every such row, compared or not."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
from families.rows import Adapters, Made, picture, row
from PIL import Image
from sources import Rows

from vlm_prep.core.records import Encoded, Media, Rejected, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.engine.tasks import Task, no_heartbeat
from vlm_prep.processors.families.generic import Generic
from vlm_prep.processors.load import load_processor
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.verify.asking import ASKED


def job_of(folder: Path, *samples: Sample, fraction: float = 1e-9) -> TokenizeJob:
    """A job that compares only the first rows of new shapes."""
    job = TokenizeJob(Rows(samples), str(folder), TokenizeConfig(verify_fraction=fraction))
    job.setup()
    return job


def reasons(job: TokenizeJob, *, compared: bool) -> dict[str, str]:
    task = Task(index=0, start=0, stop=len(job.samples))
    results = job.encoded(task, no_heartbeat, compare=compared, believing=True)
    return {each.sample_id: each.reason if isinstance(each, Rejected) else "" for _, each in results}


@pytest.fixture(scope="module")
def data(kit: Path) -> Path:
    return kit / "data"


def video(data: Path, name: str, *frames: int) -> Media:
    return Media(kind="video", uris=(str(data / "videos" / name),), frame_indices=frames)


def sound(folder: Path, samples: int) -> Media:
    path = folder / f"{samples}.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(samples).clip(-1, 1) / 8, 16_000)
    return Media(kind="audio", uris=(str(path),))


def test_two_pictures_of_minicpm_are_numbered_as_in_one_row(made: Made, data: Path) -> None:
    pictures = picture(data, "coffee.png"), picture(data, "camera.png")
    samples = (row("one", pictures[0]), row("two", *pictures))
    job = job_of(made("MiniCPMV4_6Processor"), *samples)
    for result in job.results(0, 2):
        assert isinstance(result, Encoded)
        assert job.oracle.compare(row_of(result)).differences == ()


def test_a_tensor_that_only_large_pictures_have_is_kept(made: Made, data: Path) -> None:
    job = job_of(made("DeepseekOcr2Processor"), row("large", picture(data, "large_food.jpeg")))
    (result,) = job.results(0, 1)
    assert isinstance(result, Encoded)
    assert job.oracle.compare(row_of(result)).differences == ()
    assert "pixel_values_local" in job.oracle._pixels.pixels(row_of(result)["media"])


@pytest.mark.parametrize(
    "name", ["VideoLlavaProcessor", "LlavaNextVideoProcessor", "LlavaOnevisionProcessor", "InternVLProcessor"]
)
def test_videos_of_different_frame_counts_are_rejected_where_they_are_stacked(
    made: Made, data: Path, name: str
) -> None:
    same = row("same", video(data, "bikes.mp4", 0, 10), video(data, "carphone_distorted.mp4", 0, 20))
    other = row("other", video(data, "bikes.mp4", 0, 10), video(data, "carphone_distorted.mp4", 0, 20, 40))
    job = job_of(made(name), same, other)
    assert reasons(job, compared=False) == {"same": "", "other": "processor_error"}


def test_molmo2_takes_one_video(made: Made, data: Path) -> None:
    one, two = row("one", video(data, "bikes.mp4", 0, 10)), row("two", *[video(data, "bikes.mp4", 0, 10)] * 2)
    assert reasons(job_of(made("Molmo2Processor"), one, two), compared=False) == {"one": "", "two": "processor_error"}


@pytest.mark.parametrize("samples", [1, 80, 288, 320, 400, 1600])
@pytest.mark.parametrize("name", ["phi4_multimodal", "nemotron_omni"])
def test_sound_too_short_for_finite_features_is_rejected(
    adapters: Adapters, folders: Made, tmp_path: Path, name: str, samples: int
) -> None:
    job = job_of(folders(name), row("short", sound(tmp_path, samples)))
    ours = reasons(job, compared=False)["short"]
    # not a rule of the test's own: the real processor decides
    assert ours == reasons(job, compared=True)["short"]
    assert (ours == "processor_error") == (samples < 400 if name == "phi4_multimodal" else samples < 320)


def test_the_first_row_of_each_shape_is_compared_before_it_is_written(
    made: Made, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [row(f"{n}", picture(data, "coffee.png")) for n in range(4)]
    samples.insert(2, row("pair", picture(data, "coffee.png"), picture(data, "camera.png")))
    job = job_of(made("LlavaProcessor"), *samples)
    compare = Mock(side_effect=job.oracle.compare)
    monkeypatch.setattr(job.oracle, "compare", compare)
    assert set(reasons(job, compared=True).values()) == {""}
    assert [call.args[0]["sample_id"] for call in compare.call_args_list] == ["0", "pair"]


def test_where_a_level_is_wrong_the_whole_processor_is_asked_for_the_row(made: Made, data: Path) -> None:
    samples = [row("one", picture(data, "coffee.png")), row("two", *[picture(data, "coffee.png")] * 2)]
    job = job_of(made("MiniCPMV4_6Processor"), *samples)
    adapter = job.encoder.adapter
    adapter.levels, adapter.look_at_each_other = {"image": "by size"}, False  # what a random sample had believed
    task = Task(index=0, start=0, stop=len(samples))
    results = [each for _, each in job.encoded(task, no_heartbeat, compare=True, believing=True)]
    for result, notes in zip(results, [(), (ASKED,)], strict=True):
        assert isinstance(result, Encoded), result
        assert result.notes == notes
        assert job.oracle.compare(row_of(result)).differences == ()


def test_a_row_that_only_the_real_processor_refuses_is_a_reject(
    made: Made, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = [row(f"{n}", picture(data, "coffee.png")) for n in range(3)]
    job = job_of(made("LlavaProcessor"), *samples)

    def refuse(*_: object) -> None:
        raise KeyError("a fault of its own")

    monkeypatch.setattr(job.encoder.adapter, "call", refuse)
    assert set(reasons(job, compared=True).values()) == {"processor_error"}


def test_a_refused_row_of_the_compared_share_is_left_out_of_the_shard(
    made: Made, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = [row(f"{n}", picture(data, "coffee.png")) for n in range(3)]
    job = job_of(made("LlavaProcessor"), *samples, fraction=1.0)
    call, count = job.encoder.adapter.call, iter(range(100))

    def refuse(*arguments: object) -> object:
        if next(count) == 1:
            raise RuntimeError("not this one")
        return call(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(job.encoder.adapter, "call", refuse)
    record = job.run(Task(index=0, start=0, stop=3), tmp_path, no_heartbeat)
    assert [(each.sample_id, each.reason) for each in record.rejects] == [("1", "processor_error")]
    assert sum(info.rows for info in record.shards) == record.counts["rows_written"] == 2
    assert len(list(tmp_path.glob("*.arrow"))) == len(record.shards)


def test_a_kind_that_the_processor_does_not_take_is_named(made: Made, data: Path, tmp_path: Path) -> None:
    samples = (row("heard", sound(tmp_path, 16_000)), row("seen", video(data, "bikes.mp4", 0, 9)))
    job = job_of(made("LlavaProcessor"), *samples)
    results = list(job.results(0, 2))
    assert [each.reason for each in results if isinstance(each, Rejected)] == ["unsupported_media"] * 2
    assert "LlavaProcessor takes no audio media" in getattr(results[0], "message", "")


def test_a_processor_that_takes_no_text_alone_rejects_such_rows(made: Made, tmp_path: Path) -> None:
    job = job_of(made("Qwen3ASRProcessor"), row("text"), row("heard", sound(tmp_path, 16_000)))
    assert reasons(job, compared=True) == {"text": "unsupported_media", "heard": ""}


def test_the_processor_is_asked_once_for_each_size(made: Made, data: Path, tmp_path: Path) -> None:
    for number, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (50, 40), color).save(tmp_path / f"{number}.png")
    samples = [row(f"{n}", Media(kind="image", uris=(str(tmp_path / f"{n}.png"),))) for n in range(3)]
    job = job_of(made("LlavaProcessor"), *samples)
    adapter = job.encoder.adapter
    assert isinstance(adapter, Generic)
    list(job.results(0, 3))
    assert (adapter._alone.cache_info().misses, adapter._alone.cache_info().hits) == (1, 2)


def test_what_the_tests_load_is_real(made: Made) -> None:
    assert type(load_processor(str(made("LlavaProcessor"))).hf).__module__.startswith("transformers.models.llava")
