"""Encode conversations without a run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from vlm_prep.core.config import TokenizeConfig
from vlm_prep.core.types import Encoded, Media, Sample
from vlm_prep.processors.families import adapter_for
from vlm_prep.processors.load import LoadedProcessor
from vlm_prep.tokenize.encoder import IGNORE, SampleEncoder

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
