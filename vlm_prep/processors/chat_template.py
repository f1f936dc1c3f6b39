"""A chat template from what people give as one: Jinja, or a JSON that holds it, as transformers reads both.

    chat_template.jinja       the template
    chat_template.json        {"chat_template": "..."}
    tokenizer_config.json     "chat_template": "...", or [{"name": "default", "template": "..."}, ...]
    processor_config.json     the same

A JSON read as Jinja would render: its braces and keys are literal text, which then is trained.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import Any

import orjson

from vlm_prep.core.bounds import bounded
from vlm_prep.core.errors import ProcessorError
from vlm_prep.processors import internals

FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")
"""The files of a processor's folder that may hold its template, in the order in which transformers asks them."""
_DEFAULT = "default"


def template_text(given: str) -> str:
    """Return the Jinja text of a template that was given as such, or as one of the JSON files.

    Raises:
        ProcessorError: it is JSON without a template, or with several of which none is the default.
    """
    try:
        value: Any = orjson.loads(given)
    except orjson.JSONDecodeError:
        return given
    if isinstance(value, dict):
        value = value.get("chat_template")
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        value = {each.get("name"): each.get("template") for each in value}
    if isinstance(value, dict):
        names = ", ".join(map(str, value)) or "none"
        value = value.get(_DEFAULT)
        if value is None:
            raise ProcessorError(
                f"`chat_template` holds templates named {names} and none is the default",
                "write the one that is wanted to a file of its own",
            )
    if not isinstance(value, str) or not value.strip():
        raise ProcessorError(
            "`chat_template` is JSON that holds no chat template",
            f"give a Jinja file, or one of {', '.join(FILES[1:])} with the key chat_template",
        )
    return value


_EITHER = """\
{%- set found = namespace(videos=false) -%}
{%- for message in messages if message.content is sequence and message.content is not string -%}
{%- for part in message.content if part.type == 'video' -%}{%- set found.videos = true -%}{%- endfor -%}
{%- endfor -%}
{%- if found.videos +%}OF_VIDEOS{%+ else +%}OTHERWISE{%+ endif %}"""


def compiled_within_limits(name: str, template: str) -> None:
    """Have transformers compile a template, and keep what comes of it, before any row asks: Jinja computes what is
    constant in it ('x' * 10**10), and gives that up where it may not have the memory.

    Args:
        name: the processor's, for messages.
        template: Jinja; what is none is told when it is rendered.

    Raises:
        ProcessorError: it takes too long, or too much.
    """
    from jinja2 import TemplateError

    with (
        bounded(f"{name}: compiling its chat template"),
        suppress(TemplateError, RecursionError, SyntaxError, ValueError),
    ):
        internals.template_variables.get()(template)


def with_videos(hf: Any) -> Any:
    """Return what a processor renders by itself: its template, which SmolVLM's takes for conversations without videos
    alone."""
    template = getattr(hf, "chat_template", None)
    classes = (cls for cls in type(hf).__mro__ if cls.__name__ == "SmolVLMProcessor")
    own = next((getattr(sys.modules[cls.__module__], "DEFAULT_CHAT_TEMPLATE", None) for cls in classes), None)
    if own is None or not isinstance(template, str) or own.strip() == template.strip():
        return template
    parts = {"OF_VIDEOS": own, "OTHERWISE": template}
    return re.sub("|".join(parts), lambda found: parts[found[0]].removesuffix("\n"), _EITHER)
