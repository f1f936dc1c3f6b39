r"""PaliGemma: pictures and a prompt, which see each other in both directions, and an answer behind them.

    <image>... bos prompt \n | answer eos        token_type_ids 0 | 1, labels -100 | ids

The processor takes the answer apart (`suffix=`): prompt and answer are tokenized each by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import MediaKind, Message
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.expansion import Expansion, Level
from vlm_prep.processors.families.prompt_answer import PromptAnswer
from vlm_prep.processors.load import LoadedProcessor

_TEMPLATE = """\
{%- for message in messages -%}
{%- if (message['role'] == 'assistant') != (loop.index == 2) or loop.length > 2 -%}
{{ raise_exception('PaliGemma takes one question and one answer, and no system message') }}
{%- endif -%}
{%- set pictures = message['content'] | selectattr('type', 'equalto', 'image') | list | length -%}
{%- set seen = namespace(pictures=0) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{%- set seen.pictures = seen.pictures + 1 -%}
{{ '<image>' }}{{ bos_token if seen.pictures == pictures else '' }}
{%- else -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{{ eos_token if message['role'] == 'assistant' else '\n' }}
{%- endfor -%}"""


class PaliGemma(PromptAnswer):
    """PaliGemma and PaliGemma 2. Its rows have a picture at least, one question and one answer.

    Raises:
        ProcessorError: a template is given, which nothing would use.
    """

    family: ClassVar[str] = "paligemma"
    levels: Mapping[MediaKind, Level] = {"image": "formula"}
    needs_media: bool = True
    stands_in: ClassVar[bool] = False
    answer_types: ClassVar[str | None] = "token_type_ids"

    def __init__(self, loaded: LoadedProcessor) -> None:
        if loaded.config.chat_template is not None:
            raise ProcessorError(
                f"`chat_template`: {type(loaded.hf).__name__} makes rows of a prompt and a suffix, and of no template",
                "leave it out",
            )
        super().__init__(loaded)
        self.hf.chat_template = _TEMPLATE  # what the processor makes of a prompt and a suffix is no template's

    @property
    def added_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """See `Adapter.added_around`: nothing, BOS and EOS are in the row's text."""
        return (), ()

    def find_placeholders(self) -> dict[str, MediaKind]:
        """See `Adapter.find_placeholders`."""
        return Adapter.find_placeholders(self)

    def replacement(self, kind: MediaKind, inputs: Mapping[str, Any], index: int) -> str:
        """See `Adapter.replacement`."""
        return Adapter.replacement(self, kind, inputs, index)

    def check_together(self, kind: MediaKind, media: Sequence[Expansion]) -> None:
        """See `Adapter.check_together`: it takes several."""

    def call(self, messages: Sequence[Message], tools: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Adapter.call`: the question is the prompt, the answer the suffix."""
        prompt, suffix = ([_as_text(part) for part in _parts(message)] for message in messages)
        images = [part["image"] for part in _parts(messages[0]) if part["type"] == "image"]
        made: Mapping[str, Any] = self.hf(
            images=[images], text=["".join(prompt)], suffix=["".join(suffix)], return_tensors="pt"
        )
        return made


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _as_text(part: Mapping[str, Any]) -> str:
    return "<image>" if part["type"] == "image" else str(part["text"])
