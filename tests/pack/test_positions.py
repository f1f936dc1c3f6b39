"""mrope_positions equals the `get_rope_index` of the models that transformers ships."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
import transformers

from vlm_prep.pack.positions import Mrope, mrope_positions, plain_positions
from vlm_prep.processors.torchvision_cpu import ensure_torchvision

IMAGE, VIDEO = 901, 902
Scheme = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
CLASSES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


@cache
def real_model(rule: Mrope) -> Any:
    """The real model class on the meta device: no weights, its own position code."""
    ensure_torchvision()
    vision: dict[str, Any] = {"depth": 1, "spatial_merge_size": rule.spatial_merge_size}
    if rule.tokens_per_second is not None:
        vision["tokens_per_second"] = int(rule.tokens_per_second)  # the config takes nothing else
    name = CLASSES[rule.scheme]
    config_class, model_class = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")
    with torch.device("meta"):
        return model_class(config_class(vision_config=vision, text_config={"num_hidden_layers": 1}))


@dataclass
class Document:
    """A document under construction: ids and the grids that its placeholders stand for."""

    ids: list[int] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    videos: list[list[int]] = field(default_factory=list)
    seconds: list[float] | None = None

    def text(self, n: int) -> Document:
        self.ids += range(1, n + 1)
        return self

    def image(self, grid: tuple[int, int, int], merge: int = 2) -> Document:
        self.images.append(list(grid))
        self.ids += [IMAGE] * (grid[0] * (grid[1] // merge) * (grid[2] // merge))
        return self

    def video(self, grid: tuple[int, int, int], merge: int = 2, per_frame: bool = False) -> Document:
        self.videos.append(list(grid))
        frame = [VIDEO] * ((grid[1] // merge) * (grid[2] // merge))
        for step in range(grid[0]):
            if per_frame and step:
                self.text(3)
            self.ids += frame
        return self

    def arguments(self) -> tuple[Any, Any, Any, Any]:
        return (
            np.array(self.ids, dtype=np.int32),
            np.array(self.images) if self.images else None,
            np.array(self.videos) if self.videos else None,
            None if self.seconds is None else np.array(self.seconds, dtype=np.float32),
        )


def expected(document: Document, rule: Mrope) -> np.ndarray:
    """What the real model computes for the document."""
    ids, images, videos, seconds = document.arguments()
    tokens = torch.from_numpy(ids).long()[None]
    more: dict[str, Any] = {}
    if seconds is not None:
        more["second_per_grid_ts"] = torch.from_numpy(seconds)
    positions, _ = real_model(rule).get_rope_index(
        input_ids=tokens,
        mm_token_type_ids=(tokens == IMAGE).int() + 2 * (tokens == VIDEO).int(),
        image_grid_thw=None if images is None else torch.from_numpy(images),
        video_grid_thw=None if videos is None else torch.from_numpy(videos),
        **more,
    )
    result: np.ndarray = positions[:, 0].numpy()
    return result


def rule_of(scheme: Scheme, *, merge: int = 2, tokens_per_second: float | None = 2) -> Mrope:
    return Mrope(
        scheme=scheme,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        spatial_merge_size=merge,
        tokens_per_second=tokens_per_second if scheme == "qwen2_5_vl" else None,
    )


def check(document: Document, rule: Mrope) -> None:
    positions = mrope_positions(*document.arguments(), rule)
    assert positions.dtype == np.int32
    assert positions.shape == (3, len(document.ids))
    assert np.array_equal(positions, expected(document, rule))


def random_document(rng: np.random.Generator, rule: Mrope) -> Document:
    document = Document().text(int(rng.integers(0, 20)))
    merge = rule.spatial_merge_size
    for _ in range(int(rng.integers(0, 6))):
        kind = rng.choice(["text", "image", "video"])
        height, width = (int(n) for n in rng.integers(merge, 9 * merge, 2))
        if kind == "image":
            document.image((1, height, width), merge)
        elif kind == "video":
            per_frame = rule.scheme == "qwen3_vl"
            document.video((int(rng.integers(1, 30)), height, width), merge, per_frame=per_frame)
        document.text(int(rng.integers(1, 40)))
    if document.videos and rule.scheme == "qwen2_5_vl" and rng.random() < 0.9:
        fps = rng.choice([0.5, 1.0, 2.0, 3.0, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0], len(document.videos))
        document.seconds = (2.0 / fps if rng.random() < 0.5 else rng.uniform(0.01, 5, len(fps))).tolist()
    return document


RULES = [
    rule_of("qwen2_vl"),
    rule_of("qwen2_vl", merge=3),
    *(rule_of("qwen2_5_vl", tokens_per_second=t) for t in (2, 4, 25, 25.0)),
    rule_of("qwen2_5_vl", merge=1),
    rule_of("qwen3_vl"),
    rule_of("qwen3_vl", merge=4),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.scheme} {r.spatial_merge_size} {r.tokens_per_second}")
def test_random_mixes_of_text_images_and_videos_equal_the_real_model(rule: Mrope) -> None:
    rng = np.random.default_rng([7, rule.spatial_merge_size])
    for _ in range(60):
        document = random_document(rng, rule)
        if document.ids:
            check(document, rule)


@pytest.mark.parametrize("tokens_per_second", [2, 4, 25])
@pytest.mark.parametrize("seconds", [0.0, 1.0, 2 / 3, 1 / 3, 2 / 24, 2 / 29.97, 0.1, 1.7, 40.0])
def test_time_is_cut_to_an_integer_in_float32_like_in_the_model(tokens_per_second: int, seconds: float) -> None:
    document = Document(seconds=[seconds]).text(3).video((400, 4, 6)).text(2)
    check(document, rule_of("qwen2_5_vl", tokens_per_second=tokens_per_second))


def test_without_second_per_grid_ts_a_step_is_one_second_like_in_the_real_model() -> None:
    document = Document().text(3).video((5, 4, 4)).text(2)
    rule = rule_of("qwen2_5_vl", tokens_per_second=25)
    check(document, rule)
    assert mrope_positions(*document.arguments(), rule)[0].max() == 3 + 4 * 25


@pytest.mark.parametrize("scheme", SCHEMES)
def test_media_may_open_close_and_touch_media_of_the_other_kind(scheme: Scheme) -> None:
    check(Document().image((1, 4, 8)).video((1, 8, 4)).image((1, 6, 6)), rule_of(scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_and_columns_left_over_by_merging_are_dropped_like_in_the_real_model(scheme: Scheme) -> None:
    check(Document().text(1).image((1, 7, 5)).text(1).video((1, 3, 9)).text(4), rule_of(scheme))


def test_seconds_move_only_the_time_of_qwen2_5_vl() -> None:
    fast, slow = (Document(seconds=[s]).video((4, 4, 4)).text(1).arguments() for s in (1.0, 3.0))
    for scheme in SCHEMES[:2]:
        one, other = (mrope_positions(*arguments, rule_of(scheme)) for arguments in (fast, slow))
        assert np.array_equal(one[1:], other[1:])
        assert np.array_equal(one[0], other[0]) == (scheme == "qwen2_vl")


def test_the_modules_example() -> None:
    positions = mrope_positions(*Document().text(1).image((1, 4, 4)).text(1).arguments(), rule_of("qwen2_vl"))
    assert positions.tolist() == [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_alone_has_three_plain_ranges(scheme: Scheme) -> None:
    ids = np.arange(1, 40, dtype=np.int32)
    empty = np.zeros((0, 3), dtype=np.int64)
    for grids in (None, empty):
        positions = mrope_positions(ids, grids, grids, None, rule_of(scheme))
        assert positions.dtype == np.int32
        assert np.array_equal(positions, np.tile(np.arange(39), (3, 1)))
        positions[0, 0] = 5  # three rows of their own, not one seen three times
        assert positions[1, 0] == 0


def test_an_empty_document_has_no_positions() -> None:
    positions = mrope_positions(np.array([], dtype=np.int32), None, None, None, rule_of("qwen2_vl"))
    assert positions.shape == (3, 0)


def test_plain_positions_count_from_zero() -> None:
    assert plain_positions(4).tolist() == [0, 1, 2, 3]
    assert plain_positions(4).dtype == np.int32


@pytest.mark.parametrize(
    ("scheme", "document", "message"),
    [
        ("qwen2_vl", Document(ids=[1, IMAGE, 2]), r"1 runs of image tokens \(1 tokens\) for 0 image grids"),
        ("qwen2_vl", Document(ids=[1], images=[[1, 4, 4]]), r"0 runs of image tokens .* for 1 image grids"),
        (
            "qwen2_vl",
            Document().image((1, 4, 4)).image((1, 4, 4)),
            r"1 runs .*\(8 tokens\) for 2 image grids",
        ),
        ("qwen2_vl", Document(ids=[IMAGE] * 4, videos=[[1, 4, 4]]), r"1 runs of image tokens .* for 0 image"),
        (
            "qwen3_vl",
            Document(ids=[IMAGE] * 5, images=[[1, 4, 4]]),
            r"run 0 .* 5 tokens, .* 1 x 2 x 2 = 4 merged",
        ),
        ("qwen3_vl", Document().video((3, 4, 4)), r"1 runs of video tokens \(12 tokens\) for 3 video grids"),
        (
            "qwen2_vl",
            Document().video((3, 4, 4), per_frame=True),
            r"3 runs of video .* 1 video grids \(12 cells",
        ),
        ("qwen2_vl", Document(ids=[1], images=[[1, 1, 8]]), r"image 0 has grid \[1, 1, 8\]: no cell"),
        ("qwen3_vl", Document(ids=[1], videos=[[0, 4, 4]]), r"video 0 has grid \[0, 4, 4\]: no cell"),
        ("qwen2_5_vl", Document(seconds=[1.0, 2.0]).video((2, 4, 4)), r"\[1.0, 2.0\] for 1 videos"),
        ("qwen2_5_vl", Document(seconds=[float("inf")]).video((2, 4, 4)), r"\[inf\] for 1 videos"),
    ],
)
def test_placeholders_that_do_not_match_their_media_are_refused(
    scheme: Scheme, document: Document, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mrope_positions(*document.arguments(), rule_of(scheme))


def test_arrays_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input_ids have shape \(1, 3\)"):
        mrope_positions(np.ones((1, 3), dtype=np.int32), None, None, None, rule_of("qwen2_vl"))
    with pytest.raises(ValueError, match=r"image_grid_thw has shape \(3,\)"):
        mrope_positions(np.ones(3, dtype=np.int32), np.array([1, 4, 4]), None, None, rule_of("qwen2_vl"))


def test_a_rule_that_cannot_hold_is_refused() -> None:
    ids: dict[str, Any] = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    with pytest.raises(ValueError, match="no mRoPE scheme 'qwen9'"):
        Mrope(scheme="qwen9", spatial_merge_size=2, tokens_per_second=None, **ids)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spatial_merge_size is 0"):
        Mrope(scheme="qwen2_vl", spatial_merge_size=0, tokens_per_second=None, **ids)
    with pytest.raises(ValueError, match="needs tokens_per_second"):
        Mrope(scheme="qwen2_5_vl", spatial_merge_size=2, tokens_per_second=None, **ids)
