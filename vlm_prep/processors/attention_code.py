"""What a language model's own code does with what a batch says of documents, read from its source.

Some of transformers' models are made for one kind of attention alone, some make their masks without looking at
positions, and some do not hand the lengths of documents on to their attention. None of it is an error: the model runs,
and the documents of a pack see each other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_CAUSAL = re.compile(r"^create_(\w+_)?causal_mask$|^create_chunked_\w*mask$")
_TOWER = re.compile(r"Vision|Audio|Image|Video|Speech|Encoder")
_BASE = "PreTrainedModel"
_ATTENDS = ("self_attn", "attn", "attention", "self_attention")
_CACHES = ("past_key_values", "past_key_value", "layer_past")
_PLACES = re.compile(
    r"positions = torch\.arange\(hidden_states\.shape\[1\][^\n]*\n(?:[^\n]*\n){1,3}?[^\n]*self\.floor_scale"
)


@dataclass(frozen=True)
class AttentionCode:
    """What was found; where there is no source, what most models do."""

    default: str | None = None
    """The implementation that transformers takes where nobody chooses: "sdpa" or "eager"; None without source."""
    reads_positions: bool = True
    """Whether it finds documents in positions that restart."""
    hands_lengths_on: bool = True
    """Whether the lengths of documents (`cu_seq_lens_q`) reach its attention."""
    scales_by_place: bool = False
    """Whether queries are scaled by their place in a row, whatever positions say (Llama 4)."""


def attention_code(source: str) -> AttentionCode:
    """Return what the source of a language model does.

    Args:
        source: of transformers' module that runs it; empty if there is none.
    """
    if not source:
        return AttentionCode()
    tree = ast.parse(source)
    tree.body = list(_without_towers(tree.body))
    makers = [call for call in _calls(tree) if _CAUSAL.match(_name(call.func))]
    told = _dicts_with_positions(tree)
    layers = [call for call in _calls(tree) if _is_attention(call)]
    return AttentionCode(
        default="sdpa" if _says(tree, "_supports_sdpa") else "eager",
        reads_positions=all(_gives_positions(call, told) for call in makers),
        hands_lengths_on=_says(tree, "_supports_flash_attn") and all(_hands_on(call) for call in layers),
        scales_by_place=_PLACES.search(source) is not None,
    )


def _without_towers(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Leave out the classes that read media. A whole model's name, which theirs begin with, may speak of them, too."""
    bases = [node.name for node in body if isinstance(node, ast.ClassDef) and node.name.endswith(_BASE)]
    model = min(bases, key=len, default="").removesuffix(_BASE)
    for node in body:
        if not isinstance(node, ast.ClassDef) or not _TOWER.search(node.name.removeprefix(model)):
            yield node


def _says(tree: ast.AST, flag: str) -> bool:
    """Whether the classes of the language model set a flag, and none of them takes it off; those of the whole model
    speak where it has none of its own."""
    said: dict[bool, list[bool]] = {True: [], False: []}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assigned = [each for each in node.body if isinstance(each, ast.Assign) and _name(each.targets[0]) == flag]
            values = [bool(each.value.value) for each in assigned if isinstance(each.value, ast.Constant)]
            said["Text" in node.name] += values
    spoken = said[True] or said[False]
    return bool(spoken) and all(spoken)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _dicts_with_positions(tree: ast.AST) -> set[str]:
    """Names of dicts that hold positions."""
    found: set[str] = set()
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for node in assigned:
        if isinstance(node.value, ast.Dict):
            keys = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            if "position_ids" in keys:
                found |= {_name(target) for target in node.targets}
    for node in assigned:
        copied = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(copied, ast.Attribute) and copied.attr == "copy" and _name(copied.value) in found:
            found |= {_name(target) for target in node.targets}
    return found


def _gives_positions(call: ast.Call, told: set[str]) -> bool:
    return any(each.arg == "position_ids" or (each.arg is None and _name(each.value) in told) for each in call.keywords)


def _is_attention(call: ast.Call) -> bool:
    """Whether a layer calls its attention over what was said before, and not a tower's over a picture."""
    own = isinstance(call.func, ast.Attribute) and _name(call.func.value) == "self" and call.func.attr in _ATTENDS
    return own and any(each.arg in _CACHES for each in call.keywords)


def _hands_on(call: ast.Call) -> bool:
    return any(each.arg is None for each in call.keywords)
