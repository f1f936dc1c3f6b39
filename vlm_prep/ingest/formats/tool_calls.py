"""Tool schemas and calls, brought to the form chat templates read (OpenAI's, with arguments as an object).

Sources write both as JSON text inside JSON as often as not. Text that is not what it should be rejects the
row: a call that does not parse would otherwise be trained on as prose.
"""

from __future__ import annotations

from typing import Any

from vlm_prep.core.errors import Reject, RejectReason
from vlm_prep.core.row_json import RepeatedKeyError, RowJsonError, parse_row
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.formats.common import shown, type_name

_DECLARATIONS = ("functionDeclarations", "function_declarations")
_ARGUMENTS = ("arguments", "parameters", "input", "args")
"""Where a call has its arguments: Llama 3, Anthropic, Gemini and LangChain have names of their own for them."""
_CALL_KEYS = ("name", "id", "type", "index", "function", "description")
ToolSchemas = list[dict[str, Any]]
ToolCalls = list[dict[str, Any]]


def tool_schemas(value: Any, *, lenient: bool = False) -> ToolSchemas | None:
    """Return the tools column as `{"type": "function", "function": {...}}` objects; None where it is empty.

    Args:
        value: of the column: a list, one tool, or JSON text of these; a list may hold such texts, too.
        lenient: see `core.row_json`.

    Raises:
        Reject: BAD_TOOLS or DUPLICATE_KEY.
    """
    bad = RejectReason.BAD_TOOLS
    if isinstance(value, str):
        value = _parse(value, bad, f"the tools column ({excerpt(value)})", lenient=lenient) if value.strip() else None
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, dict) and ("function" in value or "name" in value):
        value = [value]
    if not isinstance(value, list):
        raise Reject(RejectReason.BAD_TOOLS, f"the tools column is {shown(value)}, not a list of tools")
    value = [
        _parse(tool, bad, f"tool {place} ({excerpt(tool)})", lenient=lenient) if isinstance(tool, str) else tool
        for place, tool in enumerate(value)
    ]
    return [_schema(tool, f"tool {place}") for place, tool in enumerate(_flat(value))]


def written_calls(value: Any, where: str) -> ToolCalls:
    """Return the calls that a function-call turn holds: one or a list, mostly as JSON text.

    Raises:
        Reject: BAD_TOOL_CALL.
    """
    if isinstance(value, str):
        value = _parse(value, RejectReason.BAD_TOOL_CALL, f"{where}: the tool call")
    return message_calls([value] if isinstance(value, dict) else value, where)


def message_calls(value: Any, where: str) -> ToolCalls:
    """Return a message's list of tool calls.

    Raises:
        Reject: BAD_TOOL_CALL.
    """
    if isinstance(value, str):
        value = _parse(value, RejectReason.BAD_TOOL_CALL, f"{where}: the tool calls")
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise _bad_call(f"{where}: the tool calls are {type_name(value)}, not a list that holds some")
    return [_call(call, f"{where}: tool call {place}") for place, call in enumerate(value)]


def _flat(tools: list[Any]) -> list[Any]:
    """Tools with each of Gemini's declarations as one."""
    found: list[Any] = []
    for tool in tools:
        said = next((tool[key] for key in _DECLARATIONS if key in tool), None) if isinstance(tool, dict) else None
        found += said if isinstance(said, list) else [tool]
    return found


def _schema(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise Reject(RejectReason.BAD_TOOLS, f"{where} is {type_name(tool)}, not an object")
    function = tool.get("function")
    wrapped = isinstance(function, dict)
    if function is None:
        function = {key: value for key, value in tool.items() if (key, value) != ("type", "function")}
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise Reject(RejectReason.BAD_TOOLS, f"{where} has no function name: {excerpt(tool)}")
    own = function
    if "input_schema" in function and "parameters" not in function:  # Anthropic's name of it
        function = {"parameters" if key == "input_schema" else key: each for key, each in function.items()}
    if isinstance(written := function.get("parameters"), str) and written.strip():  # a table's column has one type
        parameters = _parse(written, RejectReason.BAD_TOOLS, f"{where}: parameters ({excerpt(written)})")
        if not isinstance(parameters, dict):
            raise Reject(RejectReason.BAD_TOOLS, f"{where}: parameters are {shown(parameters)}, not an object")
        function = {**function, "parameters": parameters}
    # the source's own key order is kept, templates print it
    is_usual = wrapped and tool.get("type") == "function"
    if is_usual:
        return tool if function is own else {**tool, "function": function}
    return {"type": "function", "function": function}


def _call(call: Any, where: str) -> dict[str, Any]:
    if isinstance(call, str):
        call = _parse(call, RejectReason.BAD_TOOL_CALL, where)
    function = call.get("function", call) if isinstance(call, dict) else None
    if _is_name(function) and "name" not in call:  # the name itself
        function = {**call, "name": function}
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise _bad_call(f"{where} has no function name in 'name' or 'function': {excerpt(call)}")
    arguments = _arguments(function, where)
    result = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return result | ({"id": call["id"]} if isinstance(call.get("id"), str) else {})


def _arguments(function: dict[str, Any], where: str) -> dict[str, Any]:
    """A call's arguments; null or an empty text are none, and so is a call of a name alone."""
    named = [key for key in _ARGUMENTS if function.get(key) not in (None, "")]
    if not named:
        if other := [key for key in function if key not in (*_ARGUMENTS, *_CALL_KEYS) and function[key] is not None]:
            raise _bad_call(f"{where} has no arguments, but {', '.join(map(excerpt, other))}; name them arguments")
        return {}
    arguments = function[named[0]]
    if isinstance(arguments, str):
        arguments = _parse(arguments, RejectReason.BAD_TOOL_CALL, f"{where}: arguments ({excerpt(arguments)})")
    if not isinstance(arguments, dict):
        raise _bad_call(f"{where}: arguments are {shown(arguments)}, not an object")
    return arguments


def _parse(written: str, reason: RejectReason, what: str, *, lenient: bool | None = None) -> Any:
    """Return what JSON text holds; `lenient` is None where no setting says how it is read."""
    try:
        return parse_row(written.encode(), lenient=lenient or False)[0]
    except RepeatedKeyError as error:
        raise Reject(RejectReason.DUPLICATE_KEY, f"{what}: {error}") from error
    except (RowJsonError, UnicodeEncodeError) as error:
        said = str(error) if lenient is not None else str(error).partition("; `lenient_json")[0]
        raise Reject(reason, f"{what} is not valid JSON: {said}") from error


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _bad_call(message: str) -> Reject:
    return Reject(RejectReason.BAD_TOOL_CALL, message)
