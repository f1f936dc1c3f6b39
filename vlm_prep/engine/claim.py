"""Who may have an output folder: one run, all of it or one of its parts, and nobody else's work is lost by it.

    take_over      a run takes its folder, new, unfinished or finished; with `fresh` another run's
    join           one part of a run takes its share, while others are at work
    open_finished  a finished store, read and then taken into work again by `reopen`
    settle         completes what was decided of a finished store

Raises throughout:
    OutputError: the folder holds something else, is in use, or cannot be written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_prep.core.atomic_files import sync_folder
from vlm_prep.core.errors import ChangedStoreError, OutputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.engine.array_parts import Part, enter, must_be_idle
from vlm_prep.engine.lock import Lock
from vlm_prep.engine.ownership import DISCARDED, PLAN, RunPlan, plan_of, read_plan
from vlm_prep.engine.publish import publish_staged
from vlm_prep.engine.workspace import Workspace
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest, read_stage
from vlm_prep.shards.store_names import is_store_entry

Say = Callable[[str], None]


def take_over(folder: Path, plan: RunPlan, *, fresh: bool = False, say: Say = print) -> Workspace:
    """Make a folder a run's; whether that is complete in it says `Workspace.finished`.

    Args:
        folder: OUT.
        plan: of the run.
        fresh: discard what the folder holds if it is another run of the same stage.
        say: tells the user a line.
    """
    space = _whole(folder, plan, say)
    with _released_on_error(space):
        holds_run = _must_be_empty_or_a_run(folder)
        if (folder / MANIFEST).exists() and not fresh:
            _must_be_the_finished(space)
            space.finished = True
            if space.work.exists():
                # a kill between the manifest and the end, or while a finished store was repaired, leaves it behind
                settle(folder, say)
            return space
        # a kill in discarding leaves what is nobody's
        fresh = fresh or (_plan_of(folder).exists() and read_plan(folder).fingerprint == DISCARDED)
        if fresh and holds_run:
            _must_be_discardable(space)
        space.work.mkdir(parents=True, exist_ok=True)
        _acquire(space)
        if fresh and holds_run:
            _discard(space)
        elif _plan_of(folder).exists():
            _must_be_the_unfinished(space)
        space.make_folders(lambda task: True)
        plan.write(folder)
    return space


def join(folder: Path, plan: RunPlan, part: Part, *, say: Say = print) -> Workspace:
    """Take one part of a run; others may be at work on theirs."""
    space = Workspace(folder, plan, part.lock(folder, say), part=part.name, say=say)
    with _released_on_error(space):
        _must_be_empty_or_a_run(folder)
        if (folder / MANIFEST).exists():
            _must_be_the_finished(space)
            space.finished = True
            return space
        space.work.mkdir(parents=True, exist_ok=True)
        space.lock.acquire()
        enter(folder, part)
        Lock(folder, space.work / "lock", say).must_be_free()
        if (folder / MANIFEST).exists():  # another process finished it just now
            space.finished = True
            space.close()
            return space
        plan.write(folder, create=True)
        _must_be_the_unfinished(space)
        space.make_folders(part.owns)
    return space


def open_finished(folder: Path, manifest: Manifest, *, say: Say = print) -> Workspace:
    """Return the workspace of a finished store, which stays as it is until `reopen`."""
    space = _whole(folder, plan_of(manifest), say)
    space.finished = True
    return space


def reopen(space: Workspace, manifest: Manifest, identity: dict[str, Any] | None = None) -> None:
    """Take a finished store into work again; its own files stay as they are.

    Args:
        space: of the store.
        manifest: of the store, as what is done with it takes it to be: its rows are known by their numbers.
        identity: of what is done with it, to continue after a kill; None starts over.

    Raises:
        ChangedStoreError: another run has changed it since.
    """
    folder = space.folder
    space.work.mkdir(exist_ok=True)
    _acquire(space)
    publish_staged(folder)
    if not (folder / MANIFEST).exists() or read_manifest(folder).fingerprint != manifest.fingerprint:
        space.release()
        with suppress(OSError):  # somebody's work is in it
            space.work.rmdir()
        raise ChangedStoreError(
            f"another run changed {folder} while this one looked at it", "run the same command again"
        )
    if identity is None or not _plan_of(folder).exists() or read_plan(folder).identity != identity:
        for path in space.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
    space.make_folders(lambda task: False)
    space.plan = replace(space.plan, identity=identity or {}, fingerprint=digest_json(identity or {}))
    space.plan.write(folder)


def settle(folder: Path, say: Say) -> None:
    """Put in place what was decided of a finished store before a kill, and clear its work folder away."""
    lock = Lock(folder, folder / WORK / "lock", say)
    lock.acquire()
    try:
        must_be_idle(folder, say)
        publish_staged(folder)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    finally:
        lock.release()


def _whole(folder: Path, plan: RunPlan, say: Say) -> Workspace:
    return Workspace(folder, plan, Lock(folder, folder / WORK / "lock", say), say=say)


@contextmanager
def _released_on_error(space: Workspace) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        space.release()
        raise OutputError(
            f"cannot write to {space.folder}: {error.strerror or error}", "choose another `out`"
        ) from error
    except BaseException:
        space.release()
        raise


def _plan_of(folder: Path) -> Path:
    return folder / WORK / PLAN


def _acquire(space: Workspace) -> None:
    """Become the only one who writes the folder."""
    space.lock.acquire()
    must_be_idle(space.folder, space.say)


def _must_be_the_finished(space: Workspace) -> None:
    manifest = read_manifest(space.folder)
    # of the identity: the fingerprint of a store that a retry added to is another one
    space.plan.must_be(space.folder, digest_json(manifest.identity), manifest.identity)


def _must_be_the_unfinished(space: Workspace) -> None:
    found = read_plan(space.folder)
    space.plan.must_be(space.folder, found.fingerprint, found.identity)


def _must_be_empty_or_a_run(folder: Path) -> bool:
    """Return whether the folder holds a run of ours, finished or not."""
    if folder.is_symlink() and not folder.exists():
        raise OutputError(
            f"{folder} is a link to {folder.readlink()}, which is not there",
            "make that folder, or choose another `out`",
        )
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder", "choose another `out`")
    if (folder / MANIFEST).exists() or _plan_of(folder).exists():
        return True
    work = folder / WORK
    # a kill before the plan was written leaves no more than these
    known = {"shards", "done", "poison", "parts", "lock"}
    inside = {path.name for path in work.iterdir()} if work.is_dir() else set()
    inside = {name for name in inside if not name.startswith(("lock.", "lock-", "plan.json."))}
    if any(path.name != WORK for path in folder.iterdir()) or not inside <= known:
        raise OutputError(f"{folder} is not empty and no run of vlm-prep", "choose another `out`")
    return False


def _must_be_discardable(space: Workspace) -> None:
    """Refuse --fresh for anything but an earlier output of this stage: a wrong --out must not cost a store."""
    foreign = sorted(path.name for path in space.folder.iterdir() if not is_store_entry(path))
    if foreign:
        raise OutputError(
            f"{space.folder} holds what no run of vlm-prep made: {', '.join(foreign[:5])}",
            "choose another `out`, or move these away: `fresh` deletes nothing but a former run",
        )
    complete = (space.folder / MANIFEST).exists()
    found = read_stage(space.folder) if complete else read_plan(space.folder).stage
    if found != space.plan.stage:
        raise OutputError(
            f"{space.folder} holds the output of `{found}`: `fresh` of `{space.plan.stage}` does not discard that",
            "choose another `out`",
        )


def _discard(space: Workspace) -> None:
    """Delete a former run, such that a kill in between leaves a folder that is nobody's and not complete."""
    replace(space.plan, fingerprint=DISCARDED).write(space.folder)
    (space.folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(space.folder)
    kept = (space.work, _plan_of(space.folder), space.lock.path)
    for path in [*space.folder.iterdir(), *space.work.iterdir()]:
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
