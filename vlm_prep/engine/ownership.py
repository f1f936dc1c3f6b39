"""plan.json of an unfinished output folder: which run owns it, and how its command is called again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from vlm_prep.core.atomic_files import write_bytes_atomically
from vlm_prep.core.errors import OutputError
from vlm_prep.core.fingerprint import changes, digest_json
from vlm_prep.core.regular_files import read_regular
from vlm_prep.shards.manifest import MANIFEST, WORK, Manifest, read_manifest

PLAN = "plan.json"
DISCARDED = "discarded"
"""In place of the fingerprint, while what the folder held is deleted."""
MOST_CHANGES = 12
MOST_TASKS = 10_000_000
"""Of 4,096 rows each: more than any source has."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What plan.json says."""

    stage: str
    fingerprint: str
    """Digest of the identity."""
    identity: dict[str, Any]
    """All that the output depends on."""
    tasks: int = 0
    """How many tasks the run has."""
    again: dict[str, Any] = field(default_factory=dict)
    """Where the stage's input is, for `vlm-prep finish`."""

    def write(self, folder: Path, *, create: bool = False) -> None:
        """Write it into the output folder `folder`; with `create` only if there is none."""
        write_bytes_atomically(folder / WORK / PLAN, orjson.dumps(asdict(self)), create=create)

    def must_be(self, folder: Path, fingerprint: str, identity: dict[str, Any]) -> None:
        """Make sure that what the folder holds is this run.

        Args:
            folder: the output folder.
            fingerprint: of the run that it holds.
            identity: of the run that it holds.

        Raises:
            OutputError: it is another run; what differs is said.
        """
        if fingerprint == self.fingerprint:
            return
        if fingerprint == DISCARDED:
            raise OutputError(f"{folder} was being discarded by a run that was ended", "run that command again")
        hint = "choose another `out`, or give `fresh` to discard it and start over"
        if (stage := identity.get("stage", self.stage)) != self.stage:
            raise OutputError(f"{folder} holds another run: the output of `{stage}`, not of `{self.stage}`", hint)
        lines = changes(identity, self.identity)
        more = [f"and {len(lines) - MOST_CHANGES} more"] if len(lines) > MOST_CHANGES else []
        differs = "\n    ".join(["", *lines[:MOST_CHANGES], *more])
        raise OutputError(f"{folder} holds another run; what differs:{differs}", hint)


def plan_of(manifest: Manifest) -> RunPlan:
    """Return the plan of the run that made a finished store."""
    return RunPlan(stage=manifest.stage, fingerprint=digest_json(manifest.identity), identity=manifest.identity)


def read_plan(folder: Path) -> RunPlan:
    """Read plan.json of the output folder `folder`.

    Raises:
        OutputError: it is damaged.
    """
    path = folder / WORK / PLAN
    try:
        plan = RunPlan(**orjson.loads(read_regular(path)))
        _check(plan)
        return plan
    except (ValueError, TypeError) as error:
        raise OutputError(f"{path} is damaged: {error}", f"delete {folder} and start over") from error


def _check(plan: RunPlan) -> None:
    if not all(isinstance(text, str) for text in (plan.stage, plan.fingerprint)):
        raise ValueError("stage and fingerprint are no texts")
    if not all(isinstance(table, dict) for table in (plan.identity, plan.again)):
        raise ValueError("identity and input are no tables")
    if type(plan.tasks) is not int or not 0 <= plan.tasks <= MOST_TASKS:
        raise ValueError(f"tasks is {plan.tasks!r}")


def read_run(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return (stage, identity) of the run that a folder holds, finished or not.

    Raises:
        StoreError: it holds none.
        OutputError: its plan is damaged.
    """
    if (folder / MANIFEST).exists() or not (folder / WORK / PLAN).exists():
        manifest = read_manifest(folder)
        return manifest.stage, manifest.identity
    plan = read_plan(folder)
    return plan.stage, plan.identity
