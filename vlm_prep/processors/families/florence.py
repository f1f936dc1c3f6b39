r"""Florence-2: the encoder reads a picture and a prompt, the decoder says the answer.

    <image>... <s> prompt </s> | <s> answer </s>        encoder | decoder; the answer and its end are trained

The processor writes what a task word asks ("<OD>") as a sentence, and puts picture and tokens around it; the answer is
its tokenizer's. Both are in one row, which `PadCollate` parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import MediaKind, Message
from vlm_prep.processors import internals
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.blank_media import TINY
from vlm_prep.processors.expansion import Level, as_reject
from vlm_prep.processors.families.prompt_answer import PromptAnswer, stated_start

_TEMPLATE = """\
{%- for message in messages -%}
{%- if (message['role'] == 'assistant') != (loop.index == 2) or loop.length > 2 -%}
{{ raise_exception('Florence-2 takes one question and one answer, and no system message') }}
{%- endif -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ IMAGE }}{%- endfor -%}
{{ bos_token }}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{{ eos_token }}
{%- endfor -%}"""


class Florence2(PromptAnswer):
    """Florence-2. Its rows have one picture, one question and one answer."""

    family: ClassVar[str] = "florence2"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    needs_media: bool = True

    def find_placeholders(self) -> dict[str, MediaKind]:
        """See `Adapter.find_placeholders`: its encoder reads them."""
        self.hf.chat_template = _TEMPLATE.replace("IMAGE", repr(self.hf.image_token))
        return {str(self.hf.image_token): "image"}

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        return Adapter.replacement(self, kind, inputs, index)

    def small_calls(self, kind: MediaKind, scale: int = 1) -> list[dict[str, Any]]:
        """See `Adapter.small_calls`: it puts the placeholder itself."""
        from PIL import Image

        picture = Image.new("RGB", (TINY.width * scale, TINY.height * scale))
        return [{"images": [picture], "text": ["x"], "return_tensors": "pt"}]

    def asked(self, messages: list[Message]) -> list[Message]:
        """See `Adapter.asked`: the question as the processor asks it.

        Raises:
            Reject: processor_error, where a task word stands beside others, or the prompt holds what ends prompts.
        """
        if not messages:
            return messages
        texts = [part for part in _parts(messages[0]) if part["type"] == "text"]
        prompt = "".join(part["text"] for part in texts)
        end = str(self.hf.tokenizer.eos_token)
        if end in prompt:
            raise Reject(RejectReason.PROCESSOR_ERROR, f"the question holds {end!r}, which ends what the encoder reads")
        with as_reject("the processor cannot take this question"):
            (written,) = internals.florence_prompts.of(self.hf)(prompt)
        media = [part for part in _parts(messages[0]) if part["type"] != "text"]
        return [{**messages[0], "content": [*media, {"type": "text", "text": written}]}, *messages[1:]]

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.call`: the question and its picture by the processor, the answer by its tokenizer."""
        import torch

        asked, answered = (_parts(message) for message in messages)
        pictures = [part["image"] for part in asked if part["type"] == "image"]
        texts = ["".join(part["text"] for part in parts if part["type"] == "text") for parts in (asked, answered)]
        made = dict(self.hf(images=pictures, text=texts[:1], return_tensors="pt"))
        text = self.hf.tokenizer
        answer = f"{text.bos_token}{texts[1]}{text.eos_token}"  # as BART's tokenizers write one
        said = text([answer], add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = torch.cat([made["input_ids"], said], 1)
        return {**made, "input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def decoder_start(self) -> int | None:
        """See `Adapter.decoder_start`: what the model's config says; without one </s>, as BART's decoders do."""
        stated = stated_start(self)
        return stated if stated is not None else int(self.hf.tokenizer.eos_token_id)


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
