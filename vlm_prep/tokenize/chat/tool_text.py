"""Tool schemas and calls as text, for chat templates that do not know them.

Qwen2-VL's and Qwen2.5-VL's templates render neither `tools` nor `tool_calls`: passed on as they are, both would
vanish without a word. Instead the schemas are written into the system turn and each call into the assistant's text
between <tool_call> and </tool_call>, the tags that these vocabularies carry as tokens. The stored conversation is
the rewritten one, so the comparison with the real processor covers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from vlm_prep.core.records import Message
from vlm_prep.tokenize.chat.template_probe import TemplateFindings

Tools = list[dict[str, Any]] | None
_PREAMBLE = (
    "The following tools can be called, one JSON schema a line between the tags. A call is a JSON object with "
    '"name" and "arguments", written between <tool_call> and </tool_call>.\n<tools>\n'
)


def write_tools_as_text(
    messages: Sequence[Message], tools: Tools, findings: TemplateFindings, *, train_calls: bool
) -> tuple[list[Message], Tools]:
    """Return messages and tools with what the template does not render written as text.

    Args:
        messages: of a row.
        tools: of the row.
        findings: what the template renders.
        train_calls: False marks calls written as text as not trained.
    """
    written = list(messages)
    if not findings.tool_calls:
        written = [_with_calls_as_text(message, train_calls) for message in written]
    if tools and not findings.tools:
        written, tools = _with_tools_in_system(written, tools), None
    return written, tools


def _with_calls_as_text(message: Message, train: bool) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    lines = [f"<tool_call>\n{_json(_function(call))}\n</tool_call>" for call in calls]
    content = as_parts(message["content"])
    if not any(part.get("text", "media").strip() for part in content):
        content = []  # blanks would be one token with those of the template's header, which no model writes
    elif any(part.get("text") for part in content):
        lines[0] = "\n" + lines[0]
    content.append({"type": "text", "text": "\n".join(lines), **({} if train else {"train": False})})
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content}


def _function(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    return {"name": function["name"], "arguments": function.get("arguments", {})}


def _with_tools_in_system(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    text = _PREAMBLE + "\n".join(_json(tool) for tool in tools) + "\n</tools>"
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        content = [*as_parts(first["content"]), {"type": "text", "text": "\n\n" + text}]
        return [{**first, "content": content}, *messages[1:]]
    return [{"role": "system", "content": [{"type": "text", "text": text}]}, *messages]


def as_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return content as a new list of parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
