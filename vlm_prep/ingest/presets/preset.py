"""What the packaged descriptions of well-known datasets say, see this package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from vlm_prep.core.errors import InputError
from vlm_prep.core.fields import did_you_mean
from vlm_prep.core.named_sources import is_placed
from vlm_prep.ingest.entry import Entry
from vlm_prep.ingest.spec import COLUMN_ALIASES

_HOW: Final = frozenset(("format", "mapping", "turns"))
"""What says how rows are read: of what the user says of it nothing of a preset's is left, its columns among it."""
_FOLDER: Final = Path(__file__).parent
PRESET: Final = "preset:"
"""What a source begins with that is read by a preset."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a well-known dataset is read."""

    name: str
    about: str
    expects: str
    """What its rows or files have, for people."""
    hub: str | None = None
    """Its id on the hub; None where it is given by path alone."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of a meta JSON's entry."""
    told_by: Sequence[str] = ()
    """Columns that rows of no other kind have all of."""
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a mix: the name of each dataset → its hub and options; by path they are folders or files of these names."""
    mix: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PresetSource:
    """A preset that is read as a source."""

    preset: Preset
    path: str | None
    """Where it is; None takes it from the hub."""

    @property
    def mix(self) -> Mapping[str, Any] | None:
        """How its datasets are mixed."""
        return self.preset.mix

    def entries(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return it as a meta file has it.

        Args:
            given: options that come before its own.

        Raises:
            InputError: it needs a path, or takes no options.
        """
        preset = self.preset
        if preset.sets and given:
            names = ", ".join(given)
            raise InputError(
                f"{PRESET}{preset.name}: {names} cannot be given for several datasets", "Write a meta JSON."
            )
        if preset.sets:
            return {name: self._of_set(name, said) for name, said in preset.sets.items()}
        said = {"file_name": self._place(self.path, preset.hub), **given}
        return {preset.name: {**_options(preset, said), **said}}

    def _of_set(self, name: str, said: Mapping[str, Any]) -> dict[str, Any]:
        path = None if self.path is None else _inside(self.path, name)
        return {**said.get("options", {}), "file_name": self._place(path, said.get("hub"))}

    def _place(self, path: str | None, hub: str | None) -> str:
        if path is not None:
            return path if is_placed(path) else os.path.abspath(os.path.expanduser(path))
        if hub is None:
            name = self.preset.name
            raise InputError(f"{PRESET}{name} needs a path: {self.preset.expects}", f"Write {PRESET}{name}=PATH.")
        return f"hf:{hub}"


def _inside(folder: str, name: str) -> str:
    """Return the dataset of a name in a folder: a folder, or a file with that stem."""
    exact = os.path.join(folder, name)
    if is_placed(folder) or os.path.exists(exact) or not os.path.isdir(folder):
        return exact
    return next((str(path) for path in sorted(Path(folder).glob(f"{name}.*"))), exact)


def preset_of(source: str) -> PresetSource | None:
    """Return the preset that a source names, None for another source.

    Raises:
        InputError: there is none of this name.
    """
    if not source.startswith(PRESET):
        return None
    name, equals, path = source.removeprefix(PRESET).partition("=")
    return PresetSource(read_preset(name), path if equals and path else None)


def told_by_columns(row: Mapping[str, Any]) -> str | None:
    """Return the name of the preset whose own columns a row has, None where it has none's."""
    return next((name for name, each in presets().items() if each.told_by and row.keys() >= {*each.told_by}), None)


def with_preset(entry: Entry, folder: Path) -> Entry:
    """Return an entry of a meta file with what its preset says where it says nothing itself.

    Args:
        entry: as it is written.
        folder: where its paths start.

    Raises:
        InputError: there is no such preset, or it is a mix.
    """
    if entry.preset is None:
        return entry
    preset = read_preset(entry.preset)
    if preset.sets:
        raise InputError(f"preset {preset.name!r} is several datasets", f"Use it as a source: {PRESET}{preset.name}.")
    given = entry.model_dump(include=entry.model_fields_set - {"preset"})
    path = os.path.join(folder, entry.file_name)
    return Entry.model_validate({**_options(preset, {**given, "file_name": path}), **given})


def _options(preset: Preset, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a preset says beside what the user says, who comes first: in all, or in the columns of media."""
    said = {name: value for name, value in preset.options.items() if name not in given}
    if os.path.isfile(given["file_name"]):
        said.pop("subset", None)  # of the set on the hub, or its folder
    if _HOW & given.keys():
        return {name: value for name, value in said.items() if name not in (*_HOW, "columns")}
    named = {COLUMN_ALIASES.get(role, role) for role in given.get("columns") or {}}
    if isinstance(mapping := said.get("mapping"), Mapping):
        said["mapping"] = {key: value for key, value in mapping.items() if key not in named}
    return said


def read_preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        InputError: there is none of this name.
    """
    found = presets().get(name)
    if found is None:
        hint = f"`vlm-prep presets` lists them.{did_you_mean(name, presets())}"
        raise InputError(f"no preset {name!r}", hint)
    return found


@cache
def presets() -> dict[str, Preset]:
    """Return all presets by name, sorted."""
    return {path.stem: _read(path) for path in sorted(_FOLDER.glob("*.yaml"))}


def _read(path: Path) -> Preset:
    return Preset(name=path.stem, **yaml.safe_load(path.read_text(encoding="utf-8")))
