"""A chat template from what people give as one: Jinja, or a JSON that holds it, as transformers reads both.

    chat_template.jinja       the template
    chat_template.json        {"chat_template": "..."}
    tokenizer_config.json     "chat_template": "...", or [{"name": "default", "template": "..."}, ...]
    processor_config.json     the same

A JSON read as Jinja would render: its braces and keys are literal text, which then is trained.
"""

from __future__ import annotations

from typing import Any

import orjson

from vlm_prep.core.errors import ProcessorError

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
