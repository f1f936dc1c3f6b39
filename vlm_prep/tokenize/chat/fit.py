"""A row in the form that a chat template takes: what it does not know is written in a way that it does, or rejected.

The stored conversation is the fitted one, so the comparison with the real processor covers it. What was changed is
noted and counted in the store's statistics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.records import Message
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.visible import excerpt
from vlm_prep.tokenize.chat.template import ChatTemplate
from vlm_prep.tokenize.chat.tool_text import Tools, write_tools_as_text
from vlm_prep.tokenize.labels.spans import OPTIONS, PARTS

TOOLS_AS_TEXT = "tools_as_text"
DEVELOPER_AS_SYSTEM = "developer_as_system"
NOTES = (TOOLS_AS_TEXT, DEVELOPER_AS_SYSTEM)
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A row as it is rendered."""

    messages: list[Message]
    tools: Tools
    notes: tuple[str, ...]
    """What was changed, of `NOTES`."""


def fit_to_template(
    messages: Sequence[Message],
    tools: Tools,
    template: ChatTemplate,
    config: TokenizeConfig,
    strings: Sequence[int] = (),
) -> Fitted:
    """Return a row that the template renders in full.

    Args:
        messages: of the row, contents as lists of parts.
        tools: of the row.
        template: that it is rendered with.
        config: what becomes of tools that the template leaves out.
        strings: messages that are plain strings in the source; they stay so where the template takes strings.

    Raises:
        Reject: template_drops_content for what the template leaves out and no other form is known for.
    """
    findings, notes = template.findings, []
    fitted = list(messages)
    if findings.strings:
        for index in strings:
            fitted[index] = {**fitted[index], "content": fitted[index]["content"][0]["text"]}
    if not findings.developer and any(message["role"] == "developer" for message in fitted):
        fitted = [{**each, "role": "system"} if each["role"] == "developer" else each for each in fitted]
        notes.append(DEVELOPER_AS_SYSTEM)
    calls = any(message.get("tool_calls") for message in fitted)
    if (tools and not findings.tools) or (calls and not findings.tool_calls):
        if config.tool_text == "reject":
            raise Reject(
                RejectReason.TEMPLATE_DROPS_CONTENT,
                "the chat template leaves out tools and tool calls (`tool_text=inline` writes them)",
            )
        fitted, tools = write_tools_as_text(fitted, tools, findings, train_calls=config.train_tool_calls)
        notes.append(TOOLS_AS_TEXT)
    elif calls and findings.call_key == "id":
        _require_names_in_ids(fitted)
    if not findings.parts:
        fitted = [_as_string(message) for message in fitted]
    if findings.reasoning:
        fitted = _with_reasoning_apart(fitted, tools, template)
    fitted = [_with_a_text(message) for message in fitted]
    _require_empty_strings(fitted, tools, template)
    return Fitted(fitted, tools, tuple(notes))


def _require_empty_strings(messages: Sequence[Message], tools: Tools, template: ChatTemplate) -> None:
    """Refuse empty strings where a template writes them in another way than empty lists: transformers' processors hand
    it a list in their place (`ProcessorMixin._multimodal_inputs_from_conversations`)."""
    empty = [index for index, message in enumerate(messages) if message["content"] == ""]
    if not empty:
        return
    given = [{**each, "content": []} if each["content"] == "" else each for each in messages]
    try:
        same = template.render(given, tools) == template.render(messages, tools)
    except Reject:
        same = False
    if not same:
        raise Reject(
            RejectReason.PROCESSOR_ERROR,
            f"message {empty[0] + 1} is empty: the processor gives its chat template an empty list in its place, and "
            "the template takes text only",
        )


def _with_a_text(message: Message) -> Message:
    """An answer of an empty list as one of an empty text: what ends it is found behind its text."""
    says_nothing = not message["content"] and not message.get("tool_calls") and not message.get("reasoning_content")
    if message["role"] != "assistant" or not says_nothing or isinstance(message["content"], str):
        return message
    return {**message, "content": [{"type": "text", "text": ""}]}


def _require_names_in_ids(messages: Sequence[Message]) -> None:
    """Refuse calls whose function would not be written by a template that writes their ids in place of names."""
    for index, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            name, identity = call["function"]["name"], call.get("id")
            if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", identity or ""):
                raise Reject(
                    RejectReason.TEMPLATE_DROPS_CONTENT,
                    f"message {index + 1}: the chat template writes a call's id in place of its function's name, and "
                    f"the id {excerpt(identity)} does not hold {excerpt(name)}; give ids such as 'functions.{name}:0'",
                )


def _as_string(message: Message) -> Message:
    """The message with its text parts joined, for templates that take strings."""
    parts = message["content"]
    if isinstance(parts, str):
        return message
    if any("text" not in part for part in parts):
        raise Reject(RejectReason.TEMPLATE_DROPS_CONTENT, "the chat template takes text only")
    joined = {**message, "content": "".join(part["text"] for part in parts)}
    return {**joined, PARTS: parts} if any(option in part for part in parts for option in OPTIONS) else joined


def _with_reasoning_apart(messages: list[Message], tools: Tools, template: ChatTemplate) -> list[Message]:
    """Take reasoning that is written into answers (`<think>...</think>`) out of them, where that renders the same.

    Templates that know reasoning do this themselves; done here, what they write is known to be reasoning.
    """
    apart = [_reasoning_apart(message) for message in messages]
    changed = any(new is not old for new, old in zip(apart, messages, strict=True))
    return apart if changed and template.render(apart, tools) == template.render(messages, tools) else messages


def _reasoning_apart(message: Message) -> Message:
    content = message["content"]
    first = content if isinstance(content, str) else content[0].get("text", "") if content else ""
    found = _THOUGHT.match(first) if message["role"] == "assistant" else None
    if found is None or PARTS in message or message.get("reasoning_content"):
        return message
    thought, answer = found.group(1).strip("\n"), found.group(2).lstrip("\n")
    new: Message = {
        **message,
        "content": answer if isinstance(content, str) else [{**content[0], "text": answer}, *content[1:]],
    }
    return {**new, "reasoning_content": thought} if thought else new
