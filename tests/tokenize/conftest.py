"""Encode conversations without a run."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from chat_styles import STYLES, Style
from tokenizers import AddedToken

from vlm_prep.core.records import Encoded, Media, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.media.probe import probe
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import LoadedProcessor, load_processor
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.placeholders import IGNORE
from vlm_prep.tokenize.tokenize_job import row_of
from vlm_prep.tokenize.verify.real_processor import Oracle

Messages = list[dict[str, Any]]


@dataclass
class Bench:
    """A processor, and what is made with it."""

    loaded: LoadedProcessor
    encoder: SampleEncoder

    def encode(self, messages: Messages, *, tools: Any = None, media: tuple[Media, ...] = ()) -> Encoded:
        """Encode a conversation; plain strings stand for one text part."""
        full = [{**each, "content": as_parts(each["content"])} for each in messages]
        sample = Sample(sample_id="a/0", dataset="a", source="a.jsonl", line=1, messages=full, tools=tools, media=media)
        return self.encoder.encode(sample, (None,) * len(media))

    def trained(self, messages: Messages, **options: Any) -> str:
        """Return the text of the trained tokens."""
        return self.text_of(self.encode(messages, **options))

    def text_of(self, encoded: Encoded) -> str:
        """Return the text of an encoded sample's trained tokens."""
        assert encoded.labels.shape == encoded.input_ids.shape
        ours = encoded.labels != IGNORE
        assert (encoded.labels[ours] == encoded.input_ids[ours]).all()
        return str(self.loaded.hf.tokenizer.decode(encoded.input_ids[ours]))


def as_parts(content: Any) -> Any:
    """A plain string as a list of parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@pytest.fixture(scope="session")
def bench(loaded: Callable[[str], LoadedProcessor]) -> Callable[..., Bench]:
    """`bench("qwen3_vl", template=None, fast=True, **config)`: an encoder; `template` replaces the chat template."""

    def make(name: str, *, template: str | None = None, fast: bool = False, **config: Any) -> Bench:
        processor = loaded(name)
        if template is not None:
            hf = copy.copy(processor.hf)
            hf.chat_template = template
            processor = replace(processor, hf=hf)
        settings = TokenizeConfig(**config)
        return Bench(processor, SampleEncoder(adapter_for(processor), settings, fast=fast))

    return make


@dataclass
class Trained:
    """A sample's text, apart by what is trained."""

    trained: str
    masked: str
    """What is not trained, with ⟨…⟩ where something trained was taken out."""
    proven: bool
    """Whether the labels were found a second way."""
    encoded: Encoded


class StyledBench(Bench):
    """A chat template in some style over the built-in processor, whose every result is compared with the real one."""

    def look(self, messages: Messages, *, tools: Any = None, media: tuple[Media, ...] = ()) -> list[Trained]:
        """Encode a conversation, compare each document with the real processor, and tell what is trained."""
        full = [{**each, "content": as_parts(each["content"])} for each in messages]
        sample = Sample(sample_id="a/0", dataset="a", source="a.jsonl", line=1, messages=full, tools=tools, media=media)
        return [self._told(encoded) for encoded in self.encoder.documents(sample, (None,) * len(media))]

    def _told(self, encoded: Encoded) -> Trained:
        compared = Oracle(self.encoder, self.encoder.config).compare(row_of(encoded))
        assert compared.differences == ()
        tokenizer, masked = self.loaded.hf.tokenizer, []
        trained = encoded.labels != IGNORE
        for is_trained, run in groupby(zip(encoded.input_ids.tolist(), trained.tolist(), strict=True), lambda p: p[1]):
            masked.append("⟨…⟩" if is_trained else tokenizer.decode([token for token, _ in run]))
        return Trained(self.text_of(encoded), "".join(masked), compared.labels, encoded)


@pytest.fixture(scope="session")
def styled() -> Callable[..., StyledBench]:
    """`styled("llama3", train_on="last")`: a style, by name or itself, over the built-in processor."""
    base = load_processor("builtin:qwen2.5-vl-mini")

    @functools.cache
    def processor(name: str | Style) -> LoadedProcessor:
        style = name if isinstance(name, Style) else STYLES[name]
        hf = copy.copy(base.hf)
        hf.tokenizer = copy.deepcopy(base.hf.tokenizer)
        hf.tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in style.tokens])
        hf.chat_template = hf.tokenizer.chat_template = style.template
        return replace(base, hf=hf)

    def make(name: str | Style, **config: Any) -> StyledBench:
        found = processor(name)
        return StyledBench(found, SampleEncoder(adapter_for(found), TokenizeConfig(**config)))

    return make


@pytest.fixture
def picture() -> Media:
    """A small picture, probed."""
    folder = Path(__file__).resolve().parents[2] / "vlm_prep" / "builtin" / "data"
    return probe(Media(kind="image", uris=(str(next(iter(sorted(folder.rglob("*.jpg"))))),)))[0]
