"""`vlm-prep status`: how far a run is, from any machine that sees its folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
from annotated_doc import Doc

from vlm_prep.cli import flags, options
from vlm_prep.cli.place import Local, local
from vlm_prep.cli.terminal import echo
from vlm_prep.core.errors import StoreError
from vlm_prep.core.regular_files import read_regular


@flags.command
def command(
    out: Annotated[Local, Doc("The folder that ingest, tokenize or pack writes.")], as_json: flags.AsJson = False
) -> None:
    """Say how far a run is: running, stopped or finished, rows, rejects, time left."""
    found = status_of(local(out))
    if as_json:
        options.show_json(found)
        return
    parts = found.pop("progress")
    for name, value in found.items():
        if value is not None:
            echo(f"{name:<12} {value:,}" if type(value) is int else f"{name:<12} {value}")
    for part in parts:
        left = part["seconds_left"]
        rest = "" if left is None else f", about {left:,.0f} s left"
        echo(
            f"{'progress':<12} {part['rows_done']:,} of {part['rows']:,} rows since it was started, "
            f"{part['rejected']:,} rejected{rest}; {part['age']:.0f} s ago, process {part['pid']} on {part['host']}"
            + (", which is gone" if part["gone"] else "")
        )


def status_of(folder: Path) -> dict[str, Any]:
    """Return what a folder shows of its run, JSON-ready; of a finished store, too, what changes it (`change`).

    Raises:
        StoreError: there is no run.
    """
    from vlm_prep.engine.ownership import PLAN, read_plan
    from vlm_prep.shards.manifest import read_manifest, runs_below
    from vlm_prep.shards.store_names import MANIFEST, WORK

    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        names = ("rows_in", "rows_written", "rows_rejected", "tokens")
        counts = {name: manifest.totals.get(name) for name in names}
        parts, state = _heard_of(folder)
        change = {"change": state} if parts else {}
        return {"stage": manifest.stage, "state": "finished", **counts, **change, "progress": parts}
    if not (folder / WORK / PLAN).exists():
        below = ", ".join(str(path) for path in runs_below(folder))
        raise StoreError(
            f"{folder}: no run has begun here",
            f"in it there are {below}" if below else "give the folder `out` of ingest, tokenize or pack",
        )
    plan = read_plan(folder)
    done = sum(1 for _ in (folder / WORK / "done").glob("task-*.json"))
    parts, state = _heard_of(folder)
    return {
        "stage": plan.stage,
        "state": state,
        "tasks": plan.tasks,
        "tasks_done": done,
        "progress": parts,
    }


_SILENT = 60.0
"""Seconds without a word after which a run may have stopped: a row may take as long as its `sample_timeout`."""


def _heard_of(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return what runs at work in a folder last told of themselves, and whether they still run."""
    from vlm_prep.shards.store_names import WORK

    parts = [_read(path) for path in sorted((folder / WORK).glob("progress*.json"))]
    alive = any(part["age"] < _SILENT and not part["gone"] for part in parts)
    gone = bool(parts) and all(part["gone"] for part in parts)
    return parts, "running" if alive else "stopped" if gone else "stopped, or nothing heard of it"


def _read(path: Path) -> dict[str, Any]:
    from vlm_prep.engine.lock import is_dead, is_here

    try:
        found: dict[str, Any] = orjson.loads(read_regular(path))
        age = datetime.now(UTC) - datetime.fromisoformat(found["updated"])
        # without the machine's start, as earlier versions wrote it, a name may be that of another
        gone = found.get("boot") is not None and is_here(found) and is_dead(found["pid"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is damaged: {error}", "delete it; the next run writes another") from error
    return {**found, "gone": gone, "age": round(age.total_seconds(), 1)}
