"""`vlm-prep init`: a job.yaml for data of which nothing is known yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from annotated_doc import Doc

from vlm_prep.cli import flags
from vlm_prep.cli.terminal import echo
from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import OutputError
from vlm_prep.core.fields import Flag, Positional
from vlm_prep.core.named_sources import is_placed, settled

if TYPE_CHECKING:
    from vlm_prep.ingest.look import Look

_PROCESSORS = {"audio": "Qwen/Qwen2.5-Omni-7B", None: "Qwen/Qwen2.5-VL-7B-Instruct"}


@flags.command
def command(
    source: Annotated[str, Positional(), Doc("A data file, a folder with some, a dataset folder, or a meta JSON.")],
    processor: Annotated[
        str | None, Flag(short="-p"), Doc("Hugging Face id, or folder. [default: guessed from the kinds of media]")
    ] = None,
    subset: Annotated[str | None, Doc("Configuration of a hub set or dataset folder.")] = None,
    split: Annotated[str | None, Doc("Split of a hub set or dataset folder. [default: train, or the only one]")] = None,
    file: Annotated[Path, Flag("--file"), Doc("The run file to write.")] = Path("job.yaml"),
) -> None:
    """Look at data and write a run file with what was found and what was guessed, to be read before it is run."""
    from vlm_prep.ingest.look import look

    if os.path.lexists(file):
        raise OutputError(f"{file} is there already", "give another --file")
    found = look(source, subset=subset, split=split)
    text = "".join(_lines(found, processor, file))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror or error}") from error
    write_bytes_atomically(file, text.encode())
    echo(text, nl=False)
    echo(f"\nwritten to {file}. Next: vlm-prep plan --config {file}, then vlm-prep run {file}", err=True)


def _lines(found: Look, processor: str | None, file: Path) -> Iterator[str]:
    """Yield the lines of a run file; each says whether it was found or guessed."""
    name = Path(found.source.rstrip("/")).stem or "data"
    yield f"# Made by `vlm-prep init`. Run it with `vlm-prep run {file.name}`; see docs/jobs.md.\n"
    yield from _said(found)
    known = found.preset and f"guessed by its columns: `vlm-prep presets {found.preset}`"
    yield _setting("source", _beside(found.source, file), known)
    for other in found.others:
        yield f"#   found, too: {_beside(other, file)}\n"
    guess = _PROCESSORS["audio" if found.kinds["audio"] else None]
    yield _setting("processor", processor or guess, None if processor else "guessed; a Hugging Face id or a folder")
    yield _setting("out", f"out/{name}", "guessed")
    yield "\ntokenize:\n"
    yield from ("  " + line for line in _reading(found, file))
    yield "  " + _setting("max_length", 8192, "guessed; `vlm-prep plan` shows how long the rows are")
    if found.kinds["video"]:
        yield "  " + _setting("fps", 2, "guessed: frames a second of a video")
    if found.reasoning:
        yield "  # rows with reasoning: some templates drop that of earlier turns; `vlm-prep doctor` says whether\n"
        yield "  " + _setting("rewritten_history", "reject", "split or mask keep such rows")
    yield "\npack:\n"
    yield "  " + _setting("pack_length", 8192, "guessed")
    yield "  " + _setting("world_size", 1, "guessed: the ranks of the training run")


def _said(found: Look) -> Iterator[str]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.kinds.items())) or "no media"
    yield f"# Found: {found.rows:,} rows; of the first {found.seen:,}: {kinds}.\n"
    for each in found.datasets if len(found.datasets) > 1 else ():
        yield f"#   {each['dataset']}: {each.get('rows', 0):,} rows of {each.get('format')}\n"
    if found.tools:
        yield f"# {found.tools:,} of them have tools.\n"
    for reason, count in found.rejects.most_common():
        yield f"# {count:,} of them would be rejected: {reason}\n"
    if found.missing > found.there:
        yield f"# {found.missing - found.there:,} of their media files are nowhere near the data.\n"


def _reading(found: Look, file: Path) -> Iterator[str]:
    """Yield how the rows are read. What a run finds by itself is a remark: written down it would hold rows to the first
    row's spelling. In a meta JSON each data set says its own."""
    yield from (_setting(name, value) for name, value in found.how.items())
    if found.mapping is not None:
        yield from _mapping(found.mapping)
        return
    only = found.datasets[0] if len(found.datasets) == 1 else None
    if only is None:
        return
    if found.preset is None:
        yield f"# format: {only['format']}, as its first row shows\n"
    if found.media_dir is not None and os.path.basename(found.source) == os.path.basename(str(only.get("file", ""))):
        why = f"guessed: {found.there:,} of {found.missing:,} files that are not beside the data are here"
        yield _setting("media_dir", _beside(found.media_dir, file), why)


def _mapping(mapping: dict[str, Any]) -> Iterator[str]:
    yield "mapping:  # guessed: what the columns are, and who says what; see docs/sources.md, Any table\n"
    text = yaml.safe_dump(mapping, allow_unicode=True, sort_keys=False, width=10_000)
    yield from (f"  {line}\n" for line in text.splitlines())


def _beside(path: str, file: Path) -> str:
    """Return a path as the run file names it: from its own folder."""
    return settled(path) if is_placed(path) else os.path.relpath(os.path.abspath(path), os.path.abspath(file.parent))


def _setting(name: str, value: Any, why: str | None = None) -> str:
    line = yaml.safe_dump({name: value}, allow_unicode=True, width=10_000).rstrip("\n")
    return f"{line:<40}  # {why}\n" if why else f"{line}\n"
