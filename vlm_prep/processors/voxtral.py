r"""Voxtral's processor, called as others are: its tokenizer and its template are mistral-common's.

mistral-common encodes conversations to ids, by no text and no template, and tells no offsets. What rows are made of
here is a tokenizer of the tokenizers library, which transformers makes of the same tekken.json, and a template that
writes what mistral-common encodes; what they are compared with, row by row, is mistral-common's own encoding.

    <s>[INST][BEGIN_AUDIO][AUDIO]...text[/INST]answer</s>        375 tokens for each 30 s begun
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors import internals

_CLASS = "VoxtralProcessor"
_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if tools or message['role'] not in ('system', 'user', 'assistant') %}
{{- raise_exception('tools are not written here for Voxtral') }}{% endif %}
{%- if loop.previtem is defined and loop.previtem['role'] == message['role'] %}
{{- raise_exception('two messages of the ' ~ message['role'] ~ ' follow each other, which mistral-common joins') }}
{%- endif %}
{%- set marks = {'system': ['[SYSTEM_PROMPT]', '[/SYSTEM_PROMPT]'], 'user': ['[INST]', '[/INST]'],
                 'assistant': ['', eos_token]}[message['role']] %}
{{- marks[0] }}
{%- for part in message['content'] %}
{%- if part['type'] == 'audio' %}{{ '[BEGIN_AUDIO][AUDIO]' }}
{%- else %}
{%- if loop.previtem is defined and loop.previtem['type'] == 'text' and message['role'] != 'assistant' %}
{{- '\n\n' }}{% endif %}
{{- part['text'].rstrip(' ') if message['role'] == 'assistant' else part['text'] }}
{%- endif %}
{%- endfor %}
{{- marks[1] }}
{%- endfor %}"""


def is_voxtral(hf: Any) -> bool:
    """Whether a processor is Voxtral's."""
    return any(cls.__name__ == _CLASS for cls in type(hf).__mro__)


def as_others(hf: Any, target: str) -> Any:
    """Return a processor that is called as others are.

    Args:
        hf: Voxtral's.
        target: the folder or hub name that it was loaded from.

    Raises:
        ProcessorError: mistral-common is not installed.
    """
    if find_spec("mistral_common") is None:
        raise ProcessorError(
            f"{target}: Voxtral's tokenizer and its template are mistral-common's, which is not installed",
            "pip install 'vlm-prep[voxtral]'",
        )
    from transformers import TokenizersBackend

    backend = internals.mistral_tokenizer.get()
    # it checks conversations as those of training, which end in an answer
    whole = type(hf)(hf.feature_extractor, backend.from_pretrained(target, mode="finetuning"))
    text = TokenizersBackend.from_pretrained(target)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        setattr(text, name, getattr(whole.tokenizer, name))
    return _made(whole, text)


def _made(whole: Any, text: Any) -> Any:
    class VoxtralChat(type(whole)):  # type: ignore[misc]
        """It, with a tokenizer that tells offsets, and a call with audio."""

        def __init__(self, feature_extractor: Any, tokenizer: Any) -> None:
            super().__init__(feature_extractor, tokenizer)
            self.chat_template = _TEMPLATE
            audio = whole.tokenizer.tokenizer.instruct_tokenizer.audio_encoder.audio_config
            self._per_chunk = int(audio.chunk_length_s * audio.frame_rate)

        def __call__(
            self, text: Sequence[str], audio: Sequence[Any] = (), return_tensors: str = "pt", **options: Any
        ) -> Mapping[str, Any]:
            """Return what its `apply_chat_template` does, of a rendered text and the waveforms in it."""
            import torch

            (written,) = [text] if isinstance(text, str) else text
            features = self._features(audio)
            for each in features:
                written = written.replace(self.audio_token, "\0" * (len(each) * self._per_chunk), 1)
            written = written.replace("\0", self.audio_token)
            ids = torch.tensor([self.tokenizer(written, add_special_tokens=False)["input_ids"]])
            made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            return {**made, "input_features": torch.cat(features)} if features else made

        def _features(self, audio: Sequence[Any]) -> list[Any]:
            options = dict(self.audio_kwargs)
            positions = options.pop("max_source_positions")
            return [self._retrieve_input_features([each], positions, **options) for each in audio]

        def apply_chat_template(
            self,
            conversation: Sequence[Mapping[str, Any]],
            chat_template: str | None = None,
            tools: Any = None,
            tokenize: bool = False,
            **options: Any,
        ) -> Any:
            """Return mistral-common's encoding; a text where no tokens are wanted."""
            if not tokenize:
                template = internals.compile_template.get()(chat_template or self.chat_template)
                return template.render(messages=conversation, tools=tools, **self.tokenizer.special_tokens_map)
            return whole.apply_chat_template(
                [_as_told(message, self.feature_extractor.sampling_rate) for message in conversation],
                tools=tools,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

    VoxtralChat.__name__ = _CLASS
    return VoxtralChat(whole.feature_extractor, text)


def _as_told(message: Mapping[str, Any], rate: int) -> dict[str, Any]:
    """A message as mistral-common reads it: waveforms are files of floats, an answer is one text."""
    import soundfile

    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [dict(part) for part in content]
    for part in (part for part in parts if part["type"] == "audio"):
        file = io.BytesIO()
        soundfile.write(file, part.pop("audio"), rate, format="WAV", subtype="FLOAT")
        part["base64"] = base64.b64encode(file.getvalue()).decode()
    answers = message["role"] == "assistant"
    return {**message, "content": "".join(part["text"] for part in parts) if answers else parts}
