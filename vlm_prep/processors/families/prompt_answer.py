"""Prompt and answer: encoder-decoders whose encoder takes the media, and processors without a chat template.

    media ─▶ encoder                 no token of the text stands for them
    prompt, answer, end ─▶ decoder   the prompt is control tokens and is not trained

A row is one question with its media and one answer; a question without text gets the model's own default prompt.
`PadCollate` gives the model `decoder_input_ids` from the token that its decoder starts with. One form serves
Nemotron-Parse, Whisper and Donut: what differs is how the processor is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vlm_prep.core.errors import ProcessorError, Reject, RejectReason
from vlm_prep.core.records import MediaKind, Message
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Expansion, Level, Size
from vlm_prep.processors.load import LoadedProcessor

_TEMPLATE = """\
{%- for message in messages -%}
{%- set said = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join -%}
{%- if message['role'] == 'assistant' -%}{{ said }}{{ eos_token }}
{%- else -%}{{ said or DEFAULT }}
{%- endif -%}
{%- endfor -%}"""


class PromptAnswer(Adapter):
    """A model whose encoder takes the media of a row, and whose decoder takes its text."""

    prompts_are_tokens: ClassVar[bool] = True
    unresized: ClassVar[bool] = True

    def __init__(self, loaded: LoadedProcessor) -> None:
        super().__init__(loaded)
        if not getattr(self.hf, "chat_template", None):
            self.hf.chat_template = _TEMPLATE.replace("DEFAULT", repr(self.default_prompt()))

    def default_prompt(self) -> str:
        """Return what stands for a question without text."""
        return ""

    def find_placeholders(self) -> dict[str, MediaKind]:
        """See `Adapter.find_placeholders`."""
        return {}

    def image_inputs(self, sizes: tuple[Size, ...]) -> Mapping[str, Any]:
        """See `Adapter.image_inputs`: the text says nothing of them."""
        return {}

    def audio_inputs(self, samples: tuple[int, ...]) -> Mapping[str, Any]:
        """See `Adapter.audio_inputs`: the text says nothing of them."""
        return {}

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        return ""

    def check_together(self, kind: MediaKind, media: Sequence[Expansion]) -> None:
        """See `Adapter.check_together`: the encoder takes one."""
        if len(media) > 1:
            names = {"image": "pictures", "audio": "clips"}
            raise Reject(
                RejectReason.PROCESSOR_ERROR,
                f"{len(media)} {names.get(kind, kind)}: {type(self.hf).__name__} takes one to a row",
            )

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.call`."""
        template = internals.compile_template.get()(self.loaded.chat_template)
        text = template.render(messages=messages, **self.hf.tokenizer.special_tokens_map)
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        return self.call_with(text, [part[part["type"]] for part in parts if part["type"] != "text"])

    def call_with(self, text: str, media: Sequence[Any]) -> Mapping[str, Any]:
        """Return what the processor makes of a prompt with its answer, and of the media."""
        made: Mapping[str, Any] = self.hf(images=list(media) or None, text=[text], return_tensors="pt")
        return made


def stated_start(adapter: Adapter) -> int | None:
    """Return the token that the model's config says its decoder starts with."""
    config = adapter.loaded.model or {}
    parts = (config, config.get("decoder") or {}, config.get("text_config") or {})
    named = (part.get("decoder_start_token_id") for part in parts)
    return next((int(token) for token in named if token is not None), None)


class NemotronParse(PromptAnswer):
    """Nemotron-Parse: a page, and a prompt that says what is wanted of it."""

    family: ClassVar[str] = "nemotron_parse"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    unplaced: ClassVar[tuple[MediaKind, ...]] = ("image",)

    def default_prompt(self) -> str:
        """See `PromptAnswer.default_prompt`: it asks for everything, as its model card does."""
        return "</s><s><predict_bbox><predict_classes><output_markdown>"

    def decoder_start(self) -> int | None:
        """See `Adapter.decoder_start`: what the model's config says; without one, what its task prompts open with
        (</s>, as the decoders of mBART's kind do)."""
        stated = stated_start(self)
        return stated if stated is not None else int(self.hf.tokenizer.eos_token_id)


class _TextBeside(PromptAnswer):
    """A processor whose text becomes `labels` beside media, which are ours: ids are its tokenizer's."""

    needs_media: bool = True

    @property
    def added_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """See `Adapter.added_around`: nothing, the prompt and the answer's end are in the row's text."""
        return (), ()

    def small_calls(self, kind: MediaKind, scale: int = 1) -> list[dict[str, Any]]:
        """See `Adapter.small_calls`: without text, whose ids it would return as labels."""
        calls = super().small_calls(kind, scale)
        return [{name: value for name, value in call.items() if name != "text"} for call in calls]

    def call_with(self, text: str, media: Sequence[Any]) -> Mapping[str, Any]:
        """See `PromptAnswer.call_with`."""
        made = dict(self.call_on(text, media))
        ids = made.pop("labels")
        import torch

        return {**made, "input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def call_on(self, text: str, media: Sequence[Any]) -> Mapping[str, Any]:
        """Return what the processor makes of them, `labels` among it."""
        made: Mapping[str, Any] = self.hf(
            images=list(media), text=[text], add_special_tokens=False, return_tensors="pt"
        )
        return made


class Whisper(_TextBeside):
    """Whisper: a clip of 30 s at most; the prompt names the language and the task."""

    family: ClassVar[str] = "whisper"
    levels: Mapping[MediaKind, Level] = {"audio": "formula"}
    unplaced: ClassVar[tuple[MediaKind, ...]] = ("audio",)

    def default_prompt(self) -> str:
        """See `PromptAnswer.default_prompt`: what its tokenizer begins transcripts with."""
        return "".join(self.hf.tokenizer.convert_ids_to_tokens(self.hf.tokenizer.prefix_tokens))

    def call_on(self, text: str, media: Sequence[Any]) -> Mapping[str, Any]:
        """See `_TextBeside.call_on`; its feature extractor is given no more than it knows."""
        made = dict(self.hf(audio=list(media), sampling_rate=self.sampling_rate, return_tensors="pt"))
        return {**made, "labels": self.hf(text=[text], add_special_tokens=False, return_tensors="pt")["input_ids"]}

    def decoder_start(self) -> int | None:
        """See `Adapter.decoder_start`: what begins a transcript."""
        stated = stated_start(self)
        return stated if stated is not None else int(self.hf.tokenizer.prefix_tokens[0])


class Donut(_TextBeside):
    """Donut: a page; the prompt opens with the token of the task, which the model's decoder starts with."""

    family: ClassVar[str] = "donut"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    unplaced: ClassVar[tuple[MediaKind, ...]] = ("image",)

    def call_with(self, text: str, media: Sequence[Any]) -> Mapping[str, Any]:
        """See `PromptAnswer.call_with`: its ids are returned as such, too."""
        made = dict(self.call_on(text, media))
        made.pop("labels")
        return made

    def decoder_start(self) -> int | None:
        """See `Adapter.decoder_start`.

        Raises:
            ProcessorError: there is no config to tell; each finetuned model has a token of its own task.
        """
        stated = stated_start(self)
        if stated is None:
            raise ProcessorError(
                f"{self.loaded.name}: the token that the model's decoder starts with is not known",
                "put the model's config.json beside the processor's files",
            )
        return stated
