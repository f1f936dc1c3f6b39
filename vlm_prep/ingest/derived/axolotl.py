"""Axolotl's `datasets:` of a YAML file as a meta file: sets of the types chat_template and alpaca.

What is said of a set and means something else than we do (other types, preference data, roles that are trained, masks
under names of their own, chat templates) is an InputError with the set's path. All other keys of the file are settings
of a training, and not read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vlm_prep.core.errors import InputError
from vlm_prep.core.regular_files import read_regular
from vlm_prep.core.visible import excerpt
from vlm_prep.core.yaml_text import YamlFault, read_yaml
from vlm_prep.ingest.spec import ROLE_NAMES

_TYPES: Final = {"chat_template": None, "chat_template.default": None, "sharegpt": "sharegpt", "alpaca": "alpaca"}
_ROLES: Final = {"user": "user_tag", "assistant": "assistant_tag", "system": "system_tag", "tool": "tool_tag"}
_READ: Final = frozenset(
    (
        *("path", "type", "ds_type", "data_files", "name", "split", "revision", "field_messages", "field_tools"),
        *("field_system", "message_property_mappings", "message_field_role", "message_field_content", "roles"),
        *("roles_to_train", "train_on_eos", "message_field_training", "chat_template"),
    )
)
_MEANT: Final = {
    "train_on_eos": (("turn",), "`train_end` says which ends are trained"),
    "message_field_training": (("training", "train"), "name the key `train` in the rows"),
    "chat_template": (("tokenizer_default",), "`chat_template=FILE` gives another"),
}
"""What may be said, since it is what we do, and what to do for another."""
_HINT: Final = "Write a meta JSON for this set (docs/sources.md)."
_OTHER_TYPES: Final = {
    ("is a text without turns (pretraining)", "Chats are read; `turn` makes some of columns."): (
        *("completion", "pretrain", "pretraining"),
    ),
    ("is a text in segments without a chat template", "`turn` says who says what of columns."): ("input_output",),
    ("is preference data, which also says what not to answer", "Give the good answers as messages."): (
        *("dpo", "orpo", "kto", "bradley_terry", "ipo", "simpo", "chatml", "llama3", "zephyr"),
        *("chat_template.argilla", "chat_template.argilla_chat", "chat_template.icr", "chat_template.intel"),
    ),
    ("is supervision of single steps", "Give the whole answers as messages."): ("stepwise_supervised",),
    ("writes a prompt of its own around an instruction", "`format=alpaca` reads its columns by the chat template."): (
        *("alpaca_chat", "alpaca_instruct", "alpaca_w_system", "gpteacher", "alpaca_w_system.load_open_orca"),
    ),
    ("writes a prompt of its own around its columns", "`turn` says it: user={question} and assistant={answer}."): (
        *("context_qa", "jeopardy", "oasst", "summarizetldr", "explainchoice", "concisechoice", "creative_acr"),
        *("reflection", "load_camel_ai", "metharme", "pygmalion", "orcamini", "user_defined", "llama2_chat"),
    ),
}
"""(What types mean, what to do) → their names, or what stands before the dot."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_are_texts, value.values())) and all(map(_is_text, value))


_KINDS: Final = {"roles": _is_object, "message_property_mappings": _is_object} | dict.fromkeys(
    ("roles_to_train", "data_files"), _are_texts
)
"""What a key of a set holds where it is no text."""


def axolotl_meta(path: Path) -> dict[str, Any] | None:
    """Return the data sets of an axolotl configuration as a meta file; None for another file.

    Raises:
        InputError: a set says something that is not read.
    """
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return None
    try:
        said = read_yaml(read_regular(path).decode())
    except (YamlFault, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}", _HINT) from error
    if not isinstance(said, Mapping) or not isinstance(said.get("datasets"), list):
        raise InputError(f"{path}: no data sets of axolotl (`datasets:`, a list)", _HINT)
    found: dict[str, Any] = {}
    for each in said["datasets"]:
        if not isinstance(each, Mapping) or not isinstance(each.get("path"), str):
            raise InputError(f"{path}: a set of its list of datasets has no path", _HINT)
        stem = Path(each["path"]).stem
        name = stem if stem not in found else f"{stem}_{len(found)}"
        found[name] = _entry(path, each)
    return found


def _entry(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    where = f"{path}: dataset {said['path']!r}"
    kind = said.get("type", "chat_template")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _not_read(where, kind)
    if unknown := sorted(map(str, said.keys() - _READ)):
        raise InputError(f"{where}: {', '.join(unknown)} is not read", _HINT)
    for key, value in said.items():
        if not _KINDS.get(key, _is_text)(value) and value is not None:
            raise InputError(f"{where}: {key} is {excerpt(value)}, which is not read", _HINT)
    for key, (meant, instead) in _MEANT.items():
        if said.get(key) not in (None, *meant):
            raise InputError(f"{where}: {key}: {said[key]} is not read", f"Leave it out; {instead}.")
    tags = _tags(where, said)
    columns = {"messages": said.get("field_messages"), "system": said.get("field_system")}
    columns["tools"] = said.get("field_tools")
    place = _place(path, where, said)
    entry: dict[str, Any] = {
        "file_name": place,
        "format": _TYPES[kind],
        "columns": {role: name for role, name in columns.items() if name is not None},
        "tags": tags,
        "subset": said.get("name"),
        "split": said.get("split"),
    }
    if not place.startswith("hf:") and not (path.parent / place).is_dir():
        del entry["split"]  # a file is read whole
    return {key: each for key, each in entry.items() if each not in (None, {})}


def _not_read(where: str, kind: object) -> InputError:
    """Say of a type what it means, and how such rows are read, if at all."""
    if isinstance(kind, Mapping):
        turns = "`turn` says the same of each set: user={instruction} and assistant={output}"
        return InputError(
            f"{where}: type is a prompt of its own ({', '.join(map(str, kind))}), which is not read", turns
        )
    if not kind:
        return InputError(
            f"{where}: rows that are tokenized already are not read", "Give the texts that they were made of."
        )
    name = str(kind)
    head = name.partition(".")[0]
    for meaning, heads in _OTHER_TYPES.items():
        if head in heads or name in heads:
            what, instead = meaning
            return InputError(f"{where}: type {name} {what}, which is not read", instead)
    if "." in name or ":" in name:
        return InputError(
            f"{where}: type {name} is code of its own, which is not run", f"`row_hook` does the same. {_HINT}"
        )
    return InputError(f"{where}: type {name!r} is not read", f"Read are {', '.join(_TYPES)}. {_HINT}")


def _place(path: Path, where: str, said: Mapping[str, Any]) -> str:
    files = said.get("data_files")
    listed = [files] if isinstance(files, str) else list(files or ())
    if len(listed) > 1:
        raise InputError(f"{where}: several data_files are not read", "Write a set for each.")
    place = said["path"]
    if listed and (path.parent / place).is_dir():
        return os.path.join(place, listed[0])
    if (path.parent / place).exists() or "/" not in place.strip("/.") or listed:
        return listed[0] if listed else place
    revision = said.get("revision")
    return f"hf:{place}" + (f"@{revision}" if revision else "")


def _tags(where: str, said: Mapping[str, Any]) -> dict[str, str]:
    mapped = dict(said.get("message_property_mappings") or {})
    names = {
        "role_tag": mapped.pop("role", said.get("message_field_role")),
        "content_tag": mapped.pop("content", said.get("message_field_content")),
    }
    usual = {"reasoning_content", "tool_calls", "name", "tool_call_id"}
    if other := sorted(key for key, value in mapped.items() if key not in usual or key != value):
        raise InputError(f"{where}: message_property_mappings of {', '.join(other)} are not read", _HINT)
    trained = []
    for role, written in (said.get("roles") or {}).items():
        own = [written] if isinstance(written, str) else list(written or ())
        tag = _ROLES.get(role)
        new = [name for name in own if tag is None or name not in ROLE_NAMES[tag]]
        if tag is None or len(new) > 1:
            raise InputError(f"{where}: roles of {role} ({', '.join(map(str, own))}) are not read", _HINT)
        names |= {tag: new[0]} if new else {}
        trained += own if role == "assistant" else []
    known = {*ROLE_NAMES["assistant_tag"], *trained}
    asked = said.get("roles_to_train")
    asked = [asked] if isinstance(asked, str) else asked
    if asked is not None and (not asked or not set(asked) <= known):
        raise InputError(f"{where}: roles_to_train {asked} are not read", "`train_on` says what is trained.")
    return {tag: name for tag, name in names.items() if name is not None}
