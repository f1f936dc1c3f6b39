"""Run files: settings in YAML, under the names that `--help` shows without dashes.

    source: data/meta.json
    processor: Qwen/Qwen2.5-VL-7B-Instruct
    out: out/talks
    workers: 8
    tokenize:
      max_length: 8192
    pack:
      pack_length: 8192

A file without the sections `ingest`, `tokenize` and `pack` serves any one command; one with them is a whole job
(`vlm-prep run`), of which a command takes its own section: that of `tokenize` also serves the commands that look at
what it would make, before there is anything. Settings above the sections are those of every stage that has them; where
stages read and write is nothing to commands that are none. A setting that a command does not have is passed over, a
name that no command has is an error. Paths start from the file's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import ReadsFile, Setting, did_you_mean
from vlm_prep.core.named_sources import is_placed, settled
from vlm_prep.core.regular_files import read_given
from vlm_prep.core.remote import is_remote
from vlm_prep.core.visible import excerpt
from vlm_prep.core.yaml_text import YamlFault, read_yaml, read_yaml_nodes

Keys = tuple[str, ...]
STAGES = {"ingest": "ingested", "tokenize": "tokenized", "pack": "packed"}
"""The sections of a job in the order of their work, and the folder in the job's `out` that each makes."""
LOOKS = ("plan", "labels", "doctor", "explain", "view")
"""Commands that look at what `tokenize` would make."""
SECTIONS = {**{name: name for name in STAGES}, **dict.fromkeys(LOOKS, "tokenize")}
"""Command → the section that it takes."""
_FINISHED = "manifest.json"
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


@dataclass(frozen=True)
class RunFile:
    """What a run file and the `--set`s of a command line say."""

    path: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)
    """Where each key stands in the file; those of --set are missing."""

    def where(self, keys: Keys) -> str:
        """Return the file and line of a key."""
        line = self.lines.get(keys)
        return f"`set` {'.'.join(map(str, keys))}" if line is None else f"{self.path}:{line}"

    def folder(self, keys: Keys) -> Path:
        """Return where a path starts."""
        return Path() if self.path is None or keys not in self.lines else self.path.parent

    @property
    def sections(self) -> list[str]:
        """The stages of a job, in order; none in a file for one command."""
        return [name for name in STAGES if name in self.data]


def read_run_file(path: Path | None, sets: Sequence[str] = ()) -> RunFile:
    """Read a run file and lay `a.b=value` over it.

    Raises:
        InputError: it cannot be read, is no YAML of keys and values, or has a key twice.
    """
    file = RunFile() if path is None else _read(path)
    for each in sets:
        name, equals, text = each.partition("=")
        keys = tuple(name.split("."))
        if not equals or not all(keys):
            raise InputError(
                f"`set` {excerpt(each)}: expected key=value", "for example: --set processor_args.do_resize=true"
            )
        _put(file, keys, _parse(text, each))
    return file


def _read(path: Path) -> RunFile:
    try:
        text = read_given(path)
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a run file: YAML in UTF-8 (`subset` names the configuration of a dataset)"
        raise InputError(f"{path}: {error}", hint) from error
    try:
        node, data = read_yaml_nodes(text)
    except YamlFault as fault:
        where = path if fault.line is None else f"{path}:{fault.line}"
        raise InputError(f"{where}: no YAML: {fault.problem}", "see docs/jobs.md") from fault
    data = {} if node is None else data
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: expected settings as `name: value`, found {excerpt(data)}")
    return RunFile(path, data, dict(_lines(path, node)))


def _lines(path: Path, node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, int]]:
    """Yield where each key stands."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen and name != "<<":
            raise InputError(f"{path}:{line}: {name} stands already in line {seen[name]}", "leave one out")
        seen[name] = line
        yield (*keys, name), line
        yield from _lines(path, value, (*keys, name))


def _parse(text: str, whole: str) -> Any:
    try:
        return read_yaml(text)
    except YamlFault as fault:
        raise InputError(f"`set` {excerpt(whole)}: the value is no YAML: {fault.problem}") from fault


def _put(file: RunFile, keys: Keys, value: Any) -> None:
    place = file.data
    for number, key in enumerate(keys[:-1]):
        place[key] = {} if place.get(key) is None else place[key]
        place = place[key]
        if not isinstance(place, dict):
            raise InputError(f"`set` {'.'.join(keys)}: {'.'.join(keys[: number + 1])} has no keys")
    place[keys[-1]] = value
    for each in [each for each in file.lines if each[: len(keys)] == keys]:
        del file.lines[each]


# ---- what a command takes of a file ----


def settings_in(
    file: RunFile, command: str, takes: Iterable[Setting], known: Mapping[str, Iterable[Setting]]
) -> dict[str, Any]:
    """Return the settings of a command that a file gives.

    Args:
        file: as read.
        command: its name.
        takes: the command's settings.
        known: those of each command.

    Raises:
        InputError: a name that no command has, or a value of another type.
    """
    section = SECTIONS.get(command)
    found: dict[str, tuple[Keys, Any]] = {}
    every = {each.name for settings in known.values() for each in settings}
    for name, value in file.data.items():
        if name in STAGES:
            _check_names(file, (name,), value, {each.name for each in known[name]})
        elif name not in every:
            raise _unknown(file, (str(name),), {*every, *STAGES})
        else:
            found[name] = ((name,), value)
    if file.sections:
        _check_top(file, found, known)
        if section is None:
            found.pop("source", None)
        if unread := command in LOOKS and not _is_ingested(file):
            found |= _of_section(file, "ingest")
        if section is not None:
            found |= _of_section(file, section)
        if command not in STAGES:
            found.pop("out", None)
    mine = {each.name: each for each in takes}
    values = {name: _value(file, keys, mine[name], value) for name, (keys, value) in found.items() if name in mine}
    if section not in file.sections or unread:
        return values
    return {**values, **_flow(file, section, values)}


def _of_section(file: RunFile, section: str) -> dict[str, tuple[Keys, Any]]:
    return {name: ((section, name), value) for name, value in (file.data.get(section) or {}).items()}


def _is_ingested(file: RunFile) -> bool:
    """Whether what a job's `tokenize` reads is there: it is not where an `ingest` before it was not done."""
    if "ingest" not in file.sections or "source" in (file.data.get("tokenize") or {}):
        return True
    if "tokenize" not in file.sections:
        return False
    made = str(_flow(file, "tokenize", {})["source"])
    return is_remote(made) or os.path.exists(os.path.join(made, _FINISHED))


def _check_names(file: RunFile, keys: Keys, value: Any, names: set[str]) -> None:
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{file.where(keys)}: {keys[-1]}: expected settings below it, found {excerpt(value)}")
    for name in value or {}:
        if name not in names:
            raise _unknown(file, (*keys, str(name)), names)


def _check_top(file: RunFile, found: Mapping[str, object], known: Mapping[str, Iterable[Setting]]) -> None:
    """Refuse a setting above the sections that means different things in them."""
    for name in found:
        owners = {
            (each.group, each.text): stage for stage in file.sections for each in known[stage] if each.name == name
        }
        if len({group for group, _ in owners if group is not None}) > 1:
            stages = " or ".join(f"{stage}:" for stage in owners.values())
            raise InputError(f"{file.where((name,))}: {name} is of several stages", f"write it under {stages}")


def _unknown(file: RunFile, keys: Keys, names: Iterable[str]) -> InputError:
    name = str(keys[-1])
    near = did_you_mean(name.replace("-", "_"), sorted(names)).strip()
    where = f" under {keys[0]}:" if len(keys) > 1 else ""
    return InputError(f"{file.where(keys)}: no setting is named {excerpt(name)}{where}", near or "see docs/settings.md")


def _flow(file: RunFile, section: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a stage of a job reads and writes: each reads what the one before it wrote."""
    out = file.data.get("out")
    own = file.data.get(section) or {} if section else {}
    flow: dict[str, Any] = {}
    if section and "out" in values and "out" not in own:
        flow["out"] = _below(str(values["out"]), STAGES[section])
    before = [name for name in file.sections if list(STAGES).index(name) < list(STAGES).index(str(section))]
    if before and "source" not in own:
        last = before[-1]
        its_own = (file.data[last] or {}).get("out")
        if its_own is not None:
            flow["source"] = _path(file, (last, "out"), its_own)
        elif out is not None:
            flow["source"] = _below(_path(file, ("out",), out), STAGES[last])
        else:
            raise InputError(f"{file.path}: a job needs a folder to write", "add a line out: FOLDER")
    return flow


def _below(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


# ---- values ----


def _value(file: RunFile, keys: Keys, setting: Setting, raw: Any) -> Any:
    if raw is None:
        return setting.default
    if reads := setting.note(ReadsFile):
        return _text(file, keys, raw, reads)
    if setting.is_list and not isinstance(raw, list):
        raw = [raw]
    if setting.kind is Path and isinstance(raw, str):
        raw = Path(raw)
    # not at the top: it takes a tenth of a second, which commands without a run file need not wait
    from pydantic import TypeAdapter, ValidationError

    try:
        value = TypeAdapter(setting.kind).validate_python(raw, strict=True)
    except ValidationError as error:
        if setting.choices:
            hint = f"it is one of: {', '.join(setting.choices)}.{did_you_mean(str(raw), setting.choices)}"
            raise InputError(f"{file.where(keys)}: {setting.name}: no value {excerpt(raw)}", hint) from error
        expected = _WORDS.get(setting.kind, "keys and values" if setting.is_map else "a list")
        raise InputError(f"{file.where(keys)}: {setting.name}: expected {expected}, found {excerpt(raw)}") from error
    try:
        setting.check(value)
    except InputError as error:
        raise InputError(f"{file.where(keys)}: {error.message}", error.hint) from error
    path = setting.path
    if path is None:
        return value
    if setting.is_list:
        return [_path(file, keys, each) for each in value]
    resolved = _path(file, keys, str(value))
    return value if path.only_existing and not os.path.exists(resolved) else type(value)(resolved)


def _path(file: RunFile, keys: Keys, value: str) -> str:
    if is_placed(value):
        return settled(value, file.folder(keys))
    return os.path.join(file.folder(keys), os.path.expanduser(value))


def _text(file: RunFile, keys: Keys, raw: Any, reads: ReadsFile) -> str:
    """Return the text of a file that is named, or `{text: ...}` itself, as stores keep it, or what it would hold."""
    if isinstance(raw, dict) and set(raw) == {"text"} and isinstance(raw["text"], str):
        return raw["text"]
    if reads.inline and isinstance(raw, dict):
        return str(yaml.safe_dump(raw, allow_unicode=True, sort_keys=False))
    if not isinstance(raw, str):
        raise InputError(f"{file.where(keys)}: {keys[-1]}: expected the path of a file, found {excerpt(raw)}")
    try:
        return read_given(Path(_path(file, keys, raw)))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file.where(keys)}: {keys[-1]}: {error}", "give a file in UTF-8") from error
