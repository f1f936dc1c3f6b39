"""Processors that nobody named: those of known classes, altered as a new model would alter them. Exact rows, or a
sentence; compared with what the processor itself makes of the messages, and not by the run's own proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import zoo
from families.build import build
from families.outcomes import media_in
from families.rows import Made, row
from PIL import Image
from sources import Rows

from vlm_prep.builtin import builtin_processor
from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Encoded, Media, Rejected, Sample
from vlm_prep.core.settings import ProcessorConfig, TokenizeConfig
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.processors.torchvision_cpu import ensure_torchvision
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of
from vlm_prep.tokenize.verify.real_processor import _tensor_difference

TRUSTED = TokenizeConfig(trust_remote_code=True)
# llava-hf's own: a message's pictures stand before all its texts
PICTURES_FIRST = """\
{%- for message in messages %}{{ message['role'].upper() + ': ' }}
{%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<|image|>\n' }}{% endfor %}
{%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
BASE = "from transformers import {0}\n\n\nclass NewProcessor({0}):\n"
CALL = "    def __call__(self, images=None, text=None, **options):\n"


def remote(base: Path, folder: Path, code: str) -> Path:
    """A processor's folder with a class of its own."""
    shutil.copytree(base, folder)
    (folder / "processing_new.py").write_text(code)
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (path := folder / name).exists():
            named = {"processor_class": "NewProcessor", "auto_map": {"AutoProcessor": "processing_new.NewProcessor"}}
            path.write_text(json.dumps(json.loads(path.read_text()) | named))
    return folder


def altered(base: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A processor's folder in which each part's settings are changed."""
    shutil.copytree(base, folder)
    for path in folder.glob("*processor_config.json"):
        config = json.loads(path.read_text())
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            if {"image_processor_type", "video_processor_type"} & part.keys():
                change(part)
        path.write_text(json.dumps(config))
    return folder


def made_of(folder: Path, media: dict[str, Media], config: TokenizeConfig, *rows: tuple[str, ...]) -> TokenizeJob:
    """A job of rows with these media."""
    samples = tuple(row(" ".join(each) or "text", *(media[name] for name in each)) for each in rows)
    job = TokenizeJob(Rows(samples), str(folder), config)
    job.setup()
    return job


def require_exact(job: TokenizeJob, folder: Path, *, trusted: bool = False) -> None:
    """Every row, with pictures alone, is what the processor makes of its messages by itself."""
    from transformers import AutoProcessor

    hf = AutoProcessor.from_pretrained(str(folder), trust_remote_code=trusted)
    for number, sample in enumerate(job.samples.read(0, len(job.samples))):
        assert isinstance(sample, Sample)
        (result,) = job.results(number, number + 1)
        assert isinstance(result, Encoded), result
        pictures = iter(Image.open(item.uris[0]) for item in sample.media)
        messages = [
            {**message, "content": [{**p, "image": next(pictures)} if p["type"] == "image" else p for p in content]}
            for message in sample.messages
            for content in [message["content"]]
        ]
        real = hf.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        assert result.input_ids.tolist() == real["input_ids"][0].tolist()
        stored = row_of(result)["media"]
        ours = job.oracle._pixels.pixels(stored) if stored else {}
        for name in real.keys() - {"input_ids", "attention_mask", "mm_token_type_ids"}:
            assert torch.equal(torch.as_tensor(real[name]), torch.as_tensor(ours[name])), name


def test_a_template_that_writes_pictures_before_all_texts_is_taken(made: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(made("LlavaProcessor"), tmp_path / "llava")
    (folder / "chat_template.jinja").write_text(PICTURES_FIRST)
    job = made_of(folder, media_in(tmp_path), TokenizeConfig(), (), ("image:2",), ("image:0", "image:3"))
    require_exact(job, folder)


def test_without_resizing_a_picture_of_whole_patches_is_exact_and_another_a_reject(tmp_path: Path) -> None:
    folder = altered(builtin_processor("qwen2.5-vl-mini"), tmp_path / "p", lambda part: part.update(do_resize=False))
    media = media_in(tmp_path)
    Image.new("RGB", (112, 56), (9, 90, 200)).save(tmp_path / "whole.png")
    media["whole"] = Media(kind="image", uris=(str(tmp_path / "whole.png"),))
    require_exact(made_of(folder, media, TokenizeConfig(), ("whole",)), folder)
    (reject,) = made_of(folder, media, TokenizeConfig(), ("image:2",)).results(0, 1)
    assert isinstance(reject, Rejected)
    assert "300x210: without `do_resize`, sides must be multiples of 28" in reject.message


def test_settings_that_a_familys_arithmetic_does_not_know_are_taken_generically(tmp_path: Path) -> None:
    folder = altered(build("pixtral", tmp_path / "a"), tmp_path / "p", lambda part: part.update(do_resize=False))
    job = made_of(folder, media_in(tmp_path), TokenizeConfig(), ("image:3",), ("image:1", "image:2"))
    assert job.encoder.adapter.family == "generic"
    require_exact(job, folder)


def test_a_family_whose_arithmetic_is_wrong_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build("pixtral", tmp_path / "p")
    wrong = {"image_sizes": [[16, 16]]}
    monkeypatch.setattr("vlm_prep.processors.families.pixtral.Pixtral.image_inputs", lambda *_: wrong)
    assert adapter_for(load_processor(str(folder))).family == "generic"


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("    pass\n", "qwen2_5_vl"),
        (CALL + "        text = [text] if isinstance(text, str) else text\n"
         "        text = [each.replace('<|image_pad|>', 'see: <|image_pad|>') for each in text]\n"
         "        return super().__call__(images=images, text=text, **options)\n", "generic"),
        (CALL + "        made = super().__call__(images=images, text=text, **options)\n"
         "        return {**made, 'areas': made['image_grid_thw'].prod(1)} if images else made\n", "generic"),
    ],
    ids=["a name", "another text", "another tensor"],
)  # fmt: skip
def test_a_class_that_changes_what_a_family_does_is_not_taken_for_it(code: str, family: str, tmp_path: Path) -> None:
    base = builtin_processor("qwen2.5-vl-mini")
    folder = remote(base, tmp_path / "new", BASE.format("Qwen2_5_VLProcessor") + code)
    job = made_of(folder, media_in(tmp_path), TRUSTED, (), ("image:2",), ("image:1", "image:0"))
    assert job.encoder.adapter.family == family
    require_exact(job, folder, trusted=True)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "made['n_images'] = made['input_ids'][:, 0]",
            "returns n_images, a name that rows of a store have for something",
        ),
        ("made['places'] = made['input_ids'].cumsum(1)", "places has an entry for each token"),
        ("raise KeyError('image')", "its code fails in processing_new.py, line 7"),
        ("if images: raise ValueError('not today')", "image: not today"),
    ],
)
def test_what_it_does_not_serve_is_said_without_names_of_exceptions(
    code: str, told: str, made: Made, tmp_path: Path
) -> None:
    call = (
        f"        made = super().__call__(images=images, text=text, **options)\n        {code}\n        return made\n"
    )
    folder = remote(made("LlavaProcessor"), tmp_path / "new", BASE.format("LlavaProcessor") + CALL + call)
    with pytest.raises(ProcessorError) as caught:
        adapter_for(load_processor(str(folder), ProcessorConfig(trust_remote_code=True)))
    assert told in str(caught.value.hint)
    assert "Error" not in f"{caught.value} {caught.value.hint}"


def test_a_token_that_the_tokenizer_does_not_know_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "p")
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("<|image_pad|>", "<|slot|>"))
    with pytest.raises(ProcessorError, match=r"puts <\|image_pad\|> into texts, and its tokenizer has no such token"):
        adapter_for(load_processor(str(folder)))


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.role + m.content + '\n' }}{% endfor %}"])
def test_a_template_that_is_missing_or_takes_text_alone_is_said(
    template: str | None, made: Made, tmp_path: Path
) -> None:
    folder = shutil.copytree(made("LlavaProcessor"), tmp_path / "p")
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ProcessorError) as caught:
        adapter_for(load_processor(str(folder)))
    said = f"{caught.value.message} {caught.value.hint}"
    assert ("has no chat template" if template is None else "refuses it: it takes text alone") in said


def test_videos_of_smolvlm_are_rendered_as_its_processor_does_whatever_its_template(tmp_path: Path, made: Made) -> None:
    folder = shutil.copytree(made("SmolVLMProcessor"), tmp_path / "p")
    (folder / "chat_template.jinja").write_text(zoo.TEMPLATE.replace("IMAGE", "'<image>'").replace("VIDEO", "'?'"))
    loaded = load_processor(str(folder))
    for kind, text in (("video", "User: <video>Hi<end_of_utterance>"), ("image", "<|im_start|>user\n<image>Hi")):
        messages = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "Hi"}]}]
        ours = loaded.hf.apply_chat_template(messages, chat_template=loaded.chat_template, tokenize=False)
        own = type(loaded.hf).from_pretrained(str(folder)).apply_chat_template(messages, tokenize=False)
        assert text in own.replace("User:<", "User: <")
        assert ours == own


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CohereAsrProcessor", "its call asks for `language`, which no chat gives"),
        ("InstructBlipProcessor", "its Q-Former reads the question once more"),
        ("OneFormerProcessor", "You have to specify the task_input"),
        ("LayoutLMv3Processor", "it needs PyTesseract, which is not installed"),
    ],
)
def test_classes_of_no_chats_are_refused_in_words(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProcessorError, match="takes no media in a chat") as caught:
        adapter_for(load_processor(str(zoo.build(name, tmp_path / "p"))))
    assert told in str(caught.value.hint)
    assert "Error" not in str(caught.value.hint)


def test_a_tokenizer_of_another_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = SimpleNamespace(tokenizer=SimpleNamespace())
    ensure_torchvision()
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *_, **__: processor)
    with pytest.raises(ProcessorError, match="its tokenizer, SimpleNamespace, is none of the tokenizers library's"):
        load_processor(str(tmp_path))


SAME = "        text = [text] if isinstance(text, str) else text\n        {0}\n"
MADE = "        made = super().__call__(images=images, text=text, **options)\n        {1}\n        return made\n"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("text = [each.lower() for each in text]", "", "texts otherwise than they are: capitals"),
        ("text = [each.replace('  ', ' ') for each in text]", "", "texts otherwise than they are: two blanks"),
        (
            "text = [each.strip(' ') for each in text]",
            "",
            "texts otherwise than they are: blanks at the ends of a text",
        ),
        ("text = [each.strip() for each in text]", "", "it leaves out blanks at the ends of a text"),
        ("import html; text = [html.unescape(each) for each in text]", "", "otherwise than they are: marked-up text"),
        ("text = [each.format(x=1) if '{' in each else each for each in text]", "", "they are: marked-up text"),
        (
            "",
            "pad = 64 - made['input_ids'].shape[1] % 64; "
            "made = {name: each if name == 'pixel_values' else __import__('torch').nn.functional.pad(each, (pad, 0)) "
            "for name, each in made.items()}",
            "it pads each row by itself",
        ),
        (
            "",
            "made['picture_bounds'] = __import__('torch').arange(1 + len(images))",
            "picture_bounds of two rows is not that of each, one after the other",
        ),
    ],
    ids=[
        "small letters",
        "one blank for two",
        "no blanks at ends",
        "stripped",
        "unescaped",
        "formatted",
        "padded",
        "bounds",
    ],
)
def test_a_processor_that_writes_texts_otherwise_is_refused_at_the_start(
    before: str, after: str, told: str, made: Made, tmp_path: Path
) -> None:
    code = BASE.format("LlavaProcessor") + CALL + (SAME + MADE).format(before or "pass", after or "pass")
    folder = remote(made("LlavaProcessor"), tmp_path / "new", code)
    with pytest.raises(ProcessorError, match="takes no media in a chat") as caught:
        adapter_for(load_processor(str(folder), ProcessorConfig(trust_remote_code=True)))
    assert told in str(caught.value.hint)


def test_bools_that_differ_are_a_difference() -> None:
    said = _tensor_difference(torch.tensor([True, False]), torch.tensor([True, True]))
    assert said == "1 of 2 values differ, by up to 1"
    assert _tensor_difference(torch.tensor([1], dtype=torch.uint8), torch.tensor([3], dtype=torch.uint8)) == (
        "1 of 1 values differ, by up to 2"
    )


def test_voxtral_without_mistral_common_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = type("VoxtralProcessor", (), {"tokenizer": SimpleNamespace()})()
    ensure_torchvision()
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *_, **__: processor)
    monkeypatch.setattr("vlm_prep.processors.voxtral.find_spec", lambda _: None)
    with pytest.raises(ProcessorError, match="mistral-common's, which is not installed"):
        load_processor(str(tmp_path))


@pytest.mark.parametrize(
    ("written", "told"),
    [("loop.index", "' #2<|im_end|>"), ("m.content | string | length", " and another with ' #")],
    ids=["place", "length"],
)
def test_a_template_that_ends_answers_each_otherwise_is_refused(written: str, told: str, tmp_path: Path) -> None:
    folder = shutil.copytree(builtin_processor("qwen2.5-vl-mini"), tmp_path / "p")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role + '\\n' }}{% for p in m.content %}{% if p.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}"
        f"{{% if m.role == 'assistant' %}} #{{{{ {written} }}}}{{% endif %}}{{{{ '<|im_end|>\\n' }}}}{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(ProcessorError, match="ends one answer with") as caught:
        made_of(folder, media_in(tmp_path), TokenizeConfig(), ("image:2",))
    assert told in caught.value.message
