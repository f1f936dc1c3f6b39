"""Settings of a processor, templates by file, code that comes with a processor, and the level full."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.rows import Adapters
from PIL import Image
from slim import slim

from vlm_prep.core.errors import InputError, ProcessorError, StoreError
from vlm_prep.core.fingerprint import digest_bytes
from vlm_prep.core.records import Media, MediaHeader, Sample
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.core.stored_media import stored_media
from vlm_prep.media.probe import probe
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.generic import Generic
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.frames import choose_frames
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.quick import QuickMaker
from vlm_prep.processors.runtime import describe_processor
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.tokenize_job import row_of
from vlm_prep.tokenize.verify.real_processor import Oracle

Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def small(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """`small("gemma3")`: a family's processor with a small vocabulary, as each test loads its own."""
    root = tmp_path_factory.mktemp("small")
    return functools.cache(lambda name: slim(folders(name), root / name))


def row_with(path: Path) -> Sample:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A photograph."}]},
    ]
    media, _ = probe(Media(kind="image", uris=(str(path),)))
    return Sample(sample_id="a/0", dataset="a", source="a.jsonl", line=1, messages=messages, media=(media,))


def encoded_and_equal(adapter: Adapter, sample: Sample) -> Any:
    encoder = SampleEncoder(adapter, TokenizeConfig())
    encoded = encoder.encode(sample, (None,) * len(sample.media))
    assert Oracle(encoder, encoder.config).compare(row_of(encoded)).differences == ()
    return encoded


def test_gemma3_pan_and_scan_by_a_setting_is_the_processors(small: Folders, kit: Path) -> None:
    wide = row_with(kit / "data" / "images" / "autonomous_driving.jpg")
    lengths = {}
    for pan in (False, True):
        config = ProcessorConfig(processor_args={"do_pan_and_scan": pan})
        adapter = adapter_for(load_processor(str(small("gemma3")), config))
        lengths[pan] = len(encoded_and_equal(adapter, wide).input_ids)
    assert lengths[True] >= lengths[False] + 2 * 256  # two crops at least


def test_a_setting_of_pixels_changes_the_tokens_and_the_identity(small: Folders, kit: Path) -> None:
    sample = row_with(kit / "data" / "images" / "coffee.png")
    loaded = load_processor(str(small("qwen3_vl")))
    fewer = load_processor(str(small("qwen3_vl")), ProcessorConfig(processor_args={"max_pixels": 100 * 32 * 32}))
    assert fewer.identity["image_processor"] != loaded.identity["image_processor"]
    ids = encoded_and_equal(adapter_for(fewer), sample).input_ids
    assert (ids == fewer.hf.image_token_id).sum() <= 100


PIXELS = 100 * 32 * 32


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni", "llava_onevision_1_5"])
def test_a_pixel_budget_is_that_of_from_pretrained_without_a_warning(
    small: Folders, kit: Path, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    from transformers import AutoProcessor

    loaded = load_processor(str(small(name)), ProcessorConfig(max_pixels=PIXELS, min_pixels=4 * 32 * 32))
    theirs = AutoProcessor.from_pretrained(small(name), max_pixels=PIXELS, min_pixels=4 * 32 * 32)
    for part in ("image_processor", "video_processor"):
        if hasattr(theirs, part):
            assert getattr(loaded.hf, part).to_dict() == getattr(theirs, part).to_dict()
    sample = row_with(kit / "data" / "images" / "coffee.png")
    warnings.simplefilter("always")
    encoded = encoded_and_equal(adapter_for(loaded), sample)
    assert not [each for each in recwarn if "max_pixels" in str(each.message)]
    text = "".join(loaded.hf.tokenizer.convert_ids_to_tokens(encoded.input_ids))
    image = loaded.hf.image_token
    picture = Image.open(kit / "data" / "images" / "coffee.png").convert("RGB")
    call = theirs(text=[f"{image}"], images=[picture], return_tensors="pt")
    assert text.count(image) == int((call["input_ids"] == theirs.tokenizer.convert_tokens_to_ids(image)).sum())


def test_a_size_that_was_asked_for_is_not_passed_over(kit: Path) -> None:
    """The files of the built-in processor say max_pixels, which transformers lets win over a size."""
    size = {"longest_edge": PIXELS, "shortest_edge": 3136}
    loaded = load_processor("builtin:qwen2.5-vl-mini", ProcessorConfig(processor_args={"size": size}))
    by_pixels = load_processor("builtin:qwen2.5-vl-mini", ProcessorConfig(max_pixels=PIXELS))
    assert loaded.identity["image_processor"] == by_pixels.identity["image_processor"]
    sample = row_with(kit / "data" / "images" / "coffee.png")
    ids = encoded_and_equal(adapter_for(loaded), sample).input_ids
    assert (ids == encoded_and_equal(adapter_for(by_pixels), sample).input_ids).all()


def test_a_pixel_budget_of_a_processor_without_one_is_refused(small: Folders) -> None:
    with pytest.raises(ProcessorError, match="no setting 'max_pixels'"):
        load_processor(str(small("internvl3")), ProcessorConfig(max_pixels=PIXELS))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen2_5_omni"])
def test_a_size_gives_fewer_tokens_and_one_that_changes_nothing_is_refused(
    small: Folders, kit: Path, name: str
) -> None:
    size = {"shortest_edge": 3136, "longest_edge": 50_176}
    loaded = load_processor(str(small(name)), ProcessorConfig(processor_args={"size": size}))
    ids = encoded_and_equal(adapter_for(loaded), row_with(kit / "data" / "images" / "coffee.png")).input_ids
    image = loaded.hf.tokenizer.convert_tokens_to_ids(loaded.hf.image_token)
    assert 0 < (ids == image).sum() <= 50_176 // 28**2
    own = dict(load_processor(str(small(name))).hf.image_processor.size)
    # Omni's videos have another size than its pictures, which this changes
    same: list[dict[str, Any]] = [] if name == "qwen2_5_omni" else [{"size": own}]
    for args in (*same, {"do_resize": True}, {"patch_size": 14}):
        with pytest.raises(ProcessorError, match="changes nothing"):
            load_processor(str(small(name)), ProcessorConfig(processor_args=args))


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("qwen2_vl", {"fps": 1}, "takes all frames"),
        ("llava_onevision", {"num_frames": 8}, "takes all frames"),
        ("qwen2_5_vl", {"crop_size": {"height": 64, "width": 64}}, "crop nothing"),
        ("qwen2_5_vl", {"crop_size": 64}, "an object for its parts, which make {'height': 64, 'width': 64} of it"),
        ("llava_onevision", {"size": 448}, "an object for its parts"),
        ("qwen2_vl", {"size": 448}, "size=448 cannot be taken"),
        ("qwen3_vl", {"num_frames": 8}, "samples by fps=2, and takes fps or num_frames"),
        ("gemma4", {"fps": 1}, "samples by num_frames=32"),
        ("qwen2_5_vl", {"max_pixels": "big"}, "max_pixels is 'big', no number"),
        ("qwen2_5_vl", {"max_pixels": True}, "max_pixels is True, no number"),
        ("qwen2_vl", {"size": {"shortest_edge": 3136, "longest_edge": "1M"}}, "size's longest_edge is '1M', no number"),
        ("internvl3", {"min_patches": 4, "max_patches": 2}, "min_patches 4 is more than max_patches 2"),
    ],
)
def test_a_setting_that_is_held_and_not_used_is_refused_with_the_true_reason(
    small: Folders, name: str, args: dict[str, Any], words: str
) -> None:
    with pytest.raises(ProcessorError) as caught:
        load_processor(str(small(name)), ProcessorConfig(processor_args=args))
    assert words in str(caught.value) and "SizeDict" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("qwen2_vl", {"fps": 1, "do_sample_frames": True}),
        ("qwen3_vl", {"num_frames": 8, "fps": None}),
        ("llava_onevision", {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}),
    ],
)
def test_a_setting_with_what_makes_use_of_it_is_taken(small: Folders, name: str, args: dict[str, Any]) -> None:
    hf = load_processor(str(small(name)), ProcessorConfig(processor_args=args)).hf
    assert {key for key in args if hasattr(hf.video_processor, key) or hasattr(hf.image_processor, key)} == set(args)


def test_a_setting_and_an_argument_of_its_name_that_differ_are_refused() -> None:
    assert ProcessorConfig(fps=2, processor_args={"fps": 2.0}).fps == 2
    with pytest.raises(InputError, match="`fps=2` overrides `processor_args` fps=1"):
        ProcessorConfig(fps=2, processor_args={"fps": 1})


def test_a_setting_that_no_part_has_is_refused(small: Folders) -> None:
    with pytest.raises(ProcessorError, match="no setting 'max_pixles'"):
        load_processor(str(small("qwen3_vl")), ProcessorConfig(processor_args={"max_pixles": 1}))


def test_a_chat_template_of_the_run_is_used_and_named_in_the_identity(small: Folders, kit: Path) -> None:
    own = load_processor(str(small("internvl3")))
    template = own.chat_template.replace("<|im_start|>", "<|im_start|>the ")
    changed = load_processor(str(small("internvl3")), ProcessorConfig(chat_template=template))
    assert changed.identity["chat_template"] != own.identity["chat_template"]
    encoded = encoded_and_equal(adapter_for(changed), row_with(kit / "data" / "images" / "page.png"))
    assert changed.hf.tokenizer.decode(encoded.input_ids).startswith("<|im_start|>the user")


def test_code_that_comes_with_a_processor_needs_trust_and_is_named_in_the_identity(small: Folders) -> None:
    with pytest.raises(ProcessorError) as caught:
        load_processor(str(small("kimi_vl")))
    assert "`trust_remote_code`" in (caught.value.hint or "")
    loaded = load_processor(str(small("kimi_vl")), ProcessorConfig(trust_remote_code=True))
    assert loaded.identity["remote_code"].startswith("xxh3:")


def test_training_runs_such_code_only_when_told(adapters: Adapters, kit: Path) -> None:
    adapter = adapters("kimi_vl")
    row = row_of(encoded_and_equal(adapter, row_with(kit / "data" / "images" / "coffee.png")))
    with pytest.raises(StoreError, match="Python code"):
        PixelMaker(describe_processor(adapter)).pixels(row["media"])
    made = PixelMaker(describe_processor(adapter), trust_remote_code=True).pixels(row["media"])
    assert set(made) == {"pixel_values", "image_grid_hws"}


class Trimming:
    """An image processor that looks at pixels: it cuts the black edges of a picture off first."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        flat = [image for each in images for image in (each if isinstance(each, list) else [each])]
        return self._part([[image.crop(image.getbbox() or (0, 0, *image.size)) for image in flat]], **kwargs)


def test_a_processor_that_looks_at_pixels_gets_the_level_full(small: Folders, tmp_path: Path) -> None:
    loaded = load_processor(str(small("llava_next")))
    loaded.hf.image_processor = Trimming(loaded.hf.image_processor)
    adapter = Generic(loaded)
    assert adapter.levels == {"image": "full"}
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[100:120, 50:350] = 200
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    whole = np.full((300, 400, 3), 200, np.uint8)
    Image.fromarray(whole).save(tmp_path / "whole.png")
    rows = [row_with(tmp_path / name) for name in ("bar.png", "whole.png")]
    lengths = [len(encoded_and_equal(adapter, row).input_ids) for row in rows]
    assert lengths[0] != lengths[1]


def test_a_renamed_subclass_belongs_to_the_family_of_its_ancestor(adapters: Adapters) -> None:
    loaded = adapters("qwen3_vl").loaded
    renamed = type("MyOwnProcessor", (type(loaded.hf),), {})
    hf = loaded.hf
    original = hf.__class__
    try:
        hf.__class__ = renamed
        assert adapter_for(replace(loaded)).family == "qwen3_vl"
    finally:
        hf.__class__ = original


@pytest.mark.parametrize("name", ["gemma3", "llava_onevision", "internvl3", "llava_onevision_1_5", "qwen2_5_omni"])
def test_readers_of_files_make_what_the_part_makes_in_any_number_of_threads(
    name: str, adapters: Any, kit: Path
) -> None:
    runtime = describe_processor(adapters(name))
    for picture in ("coffee.png", "grace_hopper.jpg", "china_exif6.jpg"):
        data = (kit / "data" / "images" / picture).read_bytes()
        digests = (digest_bytes(data),)
        media = [stored_media(kind="image", height=1, width=1, uris=(picture,), digests=digests, data=(data,))]
        torch.set_num_threads(4)
        try:
            theirs = PixelMaker(runtime).pixels(media)
        finally:
            torch.set_num_threads(1)
        ours = QuickMaker(runtime).pixels(media)
        assert ours.keys() == theirs.keys()
        for tensor, made in theirs.items():
            assert ours[tensor].dtype == made.dtype
            assert torch.equal(ours[tensor], made), tensor


def test_what_a_processor_writes_before_the_frames_of_a_video_in_an_answer_is_not_trained(
    adapters: Adapters, kit: Path
) -> None:
    """InternVL writes "Frame1: " there, which is one token with the blank before it."""
    picture = str(kit / "data" / "images" / "page.png")
    video, _ = probe(Media(kind="video", uris=(picture,) * 4, frame_list=True, fps=2.0))
    answer = [{"type": "text", "text": "Here: "}, {"type": "video"}, {"type": "text", "text": " A page."}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": answer},
    ]
    sample = Sample(sample_id="a/0", dataset="a", source="a.jsonl", line=1, messages=messages, media=(video,))
    encoded = encoded_and_equal(adapters("internvl3"), sample)
    tokenizer = adapters("internvl3").hf.tokenizer
    trained = tokenizer.decode(encoded.labels[encoded.labels != IGNORE])
    assert trained.startswith("Here:")
    assert " A page." in trained
    assert "Frame" not in trained
    assert "Frame" in tokenizer.decode(encoded.input_ids)


def test_the_rate_of_an_entry_comes_before_a_processors_number_of_frames(small: Folders) -> None:
    header = MediaHeader(height=64, width=96, total_frames=480, fps=8.0)
    own = load_processor(str(small("gemma4"))).hf.video_processor
    of_run = load_processor(str(small("gemma4")), ProcessorConfig(fps=1)).hf.video_processor
    asked, plain = (Media(kind="video", uris=("/v.mp4",), fps=fps) for fps in (1.0, None))
    assert choose_frames(own, asked, header, {}) == choose_frames(of_run, plain, header, {}) == tuple(range(0, 480, 8))
    assert len(choose_frames(own, plain, header, {})) == own.num_frames == 32
