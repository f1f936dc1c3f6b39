"""`vlm-prep run`: a whole job, from one run file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from annotated_doc import Doc

from vlm_prep.cli import flags, ingest, options, pack, terminal, tokenize
from vlm_prep.cli.place import Work
from vlm_prep.cli.run_file import STAGES, RunFile, read_run_file
from vlm_prep.cli.why import identity_of
from vlm_prep.core.errors import FirstRowsError, InputError, RejectRateError
from vlm_prep.core.fields import Flag, Positional

_WORK: Mapping[str, Callable[..., Work]] = {"ingest": ingest.work, "tokenize": tokenize.work, "pack": pack.work}
MISSING, UNFINISHED, CHANGED, DONE = "missing", "unfinished", "changed", "done"
WAITS = "waits"
"""A stage whose input is not there yet, so that nobody can say more."""
_DID = {MISSING: "made", UNFINISHED: "continued", CHANGED: "made again", DONE: "done before"}
"""What was done with a stage that was found in a state."""
_SWITCHES = ("dry_run", "as_json", "quiet")


@dataclass
class Step:
    """One stage of a job."""

    stage: str
    arguments: dict[str, Any]
    """Of the stage's command."""
    state: str = WAITS
    changes: list[str] = field(default_factory=list)
    """What differs from what its folder holds."""
    update: bool = False
    """Whether a finished store whose rows alone changed is brought up to them."""

    @property
    def out(self) -> str:
        """Where it writes."""
        return str(self.arguments["run"].out)

    @property
    def updates(self) -> bool:
        """Whether its store is finished and an update can make good what changed; media may have, too."""
        if not self.update or self.stage != "tokenize" or self.state not in (CHANGED, DONE):
            return False
        from vlm_prep.tokenize.update_run import is_made_good

        return all(is_made_good(line) for line in self.changes)

    @property
    def is_as_asked(self) -> bool:
        """Whether it is done as its command would; a store of other settings is made anew, or brought up."""
        return self.state != CHANGED and not self.updates

    def work(self, quiet: bool) -> Work:
        """Return what is to be done."""
        arguments = {name: value for name, value in self.arguments.items() if name not in _SWITCHES}
        if self.updates:
            arguments["update"] = True
        elif self.state == CHANGED:
            arguments["run"] = replace(arguments["run"], fresh=True)
        return _WORK[self.stage](**arguments, quiet=quiet)


@flags.command
def run(
    file: Annotated[Path, Positional(), Doc("A run file with the sections ingest, tokenize and pack, or some.")],
    set: Annotated[
        list[str] | None,
        Flag(metavar="KEY=VALUE"),
        Doc("Over a setting of the file, e.g. tokenize.max_length=4096; may be repeated."),
    ] = None,
    update: Annotated[
        bool, Doc("Bring a tokenized store whose source changed up to it (`tokenize --update`), in place of anew.")
    ] = False,
    dry_run: Annotated[bool, Doc("Say what would be done, and why; write nothing.")] = False,
    as_json: flags.AsJson = False,
    quiet: flags.Quiet = False,
) -> None:
    """Do the stages of a job in order, each from what the one before wrote: what is missing or changed, no more.

    After a kill the same command continues. A stage whose settings or input changed is made again from the start.
    """
    read = read_run_file(file, set or ())
    steps = [Step(stage, flags.of_stage(stage, read), update=update) for stage in read.sections]
    _check(read, steps)
    if dry_run:
        _look_at_all(steps)
        _show([_told(step) for step in steps], as_json)
        return
    told: list[dict[str, Any]] = []
    say = options.sayer(quiet)
    for step in steps:
        todo = _look_at(step, quiet)
        for line in step.changes:
            say(f"{step.stage}: {'brought up' if step.updates else 'made again'}: {line}")
        say(f"{step.stage}: {step.state}, {step.out}")
        began = time.monotonic()
        try:
            todo.do()
        except FirstRowsError:
            raise
        except RejectRateError as error:
            _show([*told, _done(step, todo, began)], as_json)
            rest = " and ".join(each.stage for each in steps[len(told) + 1 :])
            more = f"\n  {rest} did not begin: with a higher {step.stage}.max_reject_rate in {file} run goes on"
            raise RejectRateError(error.message, f"{error.hint}{more if rest else ''}") from error
        told.append(_done(step, todo, began))
    _show(told, as_json)


def _check(file: RunFile, steps: list[Step]) -> None:
    """Refuse what cannot be a job."""
    if not steps:
        raise InputError(
            f"{file.path}: no stage is named", f"write settings below one of: {', '.join(STAGES)}; none are enough"
        )
    for step in steps:
        if step.arguments["run"].out is None:
            raise InputError(f"{file.path}: {step.stage} has no place to write", "add a line out: FOLDER")
        if step.arguments["run"].part is not None:
            raise InputError(
                f"{file.path}: `part` is of one stage", "run the stage's own command in each job of an array"
            )


def _look_at_all(steps: list[Step]) -> None:
    """Find the state of each step, as far as its input is there."""
    for step in steps:
        _find_state(step, partial(identity_of, step.stage, step.arguments))
        if step.state != DONE:
            return


def _look_at(step: Step, quiet: bool) -> Work:
    """Find the state of a step and return what is to be done. Work that a state asks for is that which was looked
    with, if it can be: what a processor is, is then known already."""
    work = step.work(quiet)
    _find_state(step, work.identity)
    return work if step.is_as_asked else step.work(quiet)


def _find_state(step: Step, identity: Callable[[], dict[str, Any]]) -> None:
    """Find out whether a step is missing, unfinished, done, or done with other settings or input."""
    from vlm_prep.core.fingerprint import changes
    from vlm_prep.engine.ownership import PLAN, read_run
    from vlm_prep.shards.store_names import MANIFEST, WORK

    folder = _folder(step)
    if not (folder / MANIFEST).exists() and not (folder / WORK / PLAN).exists():
        step.state = MISSING
        return
    stage, then = read_run(folder)
    if stage != step.stage:
        raise InputError(f"{folder} holds the output of {stage}, not of {step.stage}", "choose another `out`")
    step.changes = changes(then, identity())
    finished = DONE if (folder / MANIFEST).exists() else UNFINISHED
    step.state = CHANGED if step.changes else finished


def _folder(step: Step) -> Path:
    """Where a step's store is on this machine."""
    from vlm_prep.cli.place import place_for

    return place_for(step.arguments["source"], step.arguments["run"], f".{STAGES[step.stage]}").folder


def _told(step: Step) -> dict[str, Any]:
    return {"stage": step.stage, "state": step.state, "changes": step.changes, "out": step.out}


def _done(step: Step, todo: Work, began: float) -> dict[str, Any]:
    from vlm_prep.shards.manifest import read_manifest

    totals = read_manifest(todo.place.folder).totals
    counts = {name: totals.get(name) for name in ("rows_in", "rows_written", "rows_rejected", "tokens")}
    did = "brought up" if step.updates else _DID[step.state]
    return {**_told(step), "did": did, **counts, "seconds": round(time.monotonic() - began, 1)}


def _show(told: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        options.show_json(told)
        return
    shown = [{("state" if name == "did" else name): value for name, value in each.items()} for each in told]
    names = [name for name in shown[0] if name != "changes"] if shown else []
    table = [names, *([_cell(each.get(name)) for name in names] for each in shown)]
    widths = [max(len(row[column]) for row in table) for column in range(len(names))]
    for row in table:
        terminal.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for line in _lines(told):
        terminal.echo(line)


def _lines(told: list[dict[str, Any]]) -> Iterator[str]:
    for each in told:
        for line in each["changes"]:
            yield f"{each['stage']}: {line}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
