"""One stage from tasks to manifest: the steps that ingest, tokenize and pack share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from vlm_prep.core.errors import OutputError
from vlm_prep.core.fingerprint import digest_json
from vlm_prep.core.made_here import marked
from vlm_prep.engine.array_parts import Part
from vlm_prep.engine.claim import join, reopen, take_over
from vlm_prep.engine.events import Events, from_start_to_end
from vlm_prep.engine.local import Executor, Limits, local_executor
from vlm_prep.engine.ownership import RunPlan
from vlm_prep.engine.progress import ProgressBar
from vlm_prep.engine.repair import lost_shards, put_back
from vlm_prep.engine.run_options import RunOptions as RunOptions
from vlm_prep.engine.run_options import Say as Say
from vlm_prep.engine.tasks import Assignment, Job, Poison, Record, Task
from vlm_prep.engine.workspace import Workspace
from vlm_prep.shards.earlier import EARLIER, Earlier
from vlm_prep.shards.manifest import Manifest, read_manifest
from vlm_prep.shards.shard_info import ShardInfo

Send = Callable[..., Any]
"""`send(method, task, *arguments)`: have a worker call a method of the job, see `tasks.Assignment`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is to be done."""

    name: str
    identity: dict[str, Any]
    """All that the output depends on; its digest is the run's fingerprint."""
    tasks: Sequence[Task]
    """All of them."""
    job: Job
    describe: Callable[[Sequence[Record], dict[str, list[ShardInfo]]], tuple[Manifest, str]]
    """Returns the manifest and the text of the data card for the records and the final shards."""
    again: dict[str, Any]
    """Where the input is, for `vlm-prep finish`, `retry` and `why`."""
    settings: str = ""
    """Its run.yaml, see `core.run_yaml`."""
    begin: Assignment | None = None
    """What a worker does first, if there is work; what the others do meanwhile counts once it has not failed. Its
    folder is set to that of the shards."""
    begun: Callable[[Any], None] | None = None
    """Told what that returned."""
    check: Callable[[Sequence[Record], Path, Send], Sequence[Poison] | None] | None = None
    """Looks at the records and their shards (still in the given folder) before anything is final; what it sends a
    worker to do may find poison, and it may return some; it is then called again with the records without it."""
    earlier: Earlier = Earlier()  # noqa: RUF009 - frozen
    """What was rejected on the way to this stage's input."""
    numbers: Callable[[list[str]], dict[str, int]] | None = None
    """Returns the numbers of sample_ids in the input; None if no row of a task is rejected."""


def run_stage(stage: Stage, options: RunOptions) -> Manifest | None:
    """Run the tasks that are not done yet, finish the folder, and return its manifest.

    Of a run in parts only the tasks of `options.part` are done, and nothing is finished: None is returned.

    Raises:
        OutputError: the folder is not ours to write, or writing failed (disk full).
        VlmPrepError: from the tasks.
    """
    with from_start_to_end(options.events, stage.name, options.out, len(stage.tasks)) as totals:
        manifest = _run_stage(stage, options)
        totals.update({} if manifest is None else manifest.totals)
    return manifest


def _run_stage(stage: Stage, options: RunOptions) -> Manifest | None:
    plan = RunPlan(
        stage=stage.name,
        fingerprint=digest_json(stage.identity),
        identity=stage.identity,
        tasks=len(stage.tasks),
        again=marked(stage.again),
    )
    if options.part is None:
        workspace = take_over(options.out, plan, fresh=options.fresh, say=options.say)
    else:
        workspace = join(options.out, plan, options.part, say=options.say)
    try:
        if options.part is not None:
            _run_part(stage, workspace, options, options.part)
            return None
        if workspace.finished:
            return _look_after(stage, workspace, options)
        records = _run(stage, stage.tasks, workspace, options, stage.check)
        poison = workspace.poison()
        manifest, card = stage.describe(records, workspace.place_shards(records))
        accounts = {EARLIER: list(stage.earlier.accounts)} if stage.earlier.accounts else {}
        manifest = replace(
            manifest,
            totals={**manifest.totals, **accounts},
            fingerprint=plan.fingerprint,
            identity=plan.identity,
            # how the shards were made, so that a lost one can be made again
            tasks=[len(record.shards) for record in records],
            poison=[asdict(each) for each in poison],
        )
        rejects = chain(stage.earlier.rejects, *(record.rejects for record in records))
        return workspace.finish(manifest, card, rejects, marked(stage.again), stage.settings)
    except OSError as error:
        raise OutputError(
            f"{options.out}: {error}",
            "what was committed is kept: when the cause is gone (make room on a full disk), run the same command again",
        ) from error
    finally:
        workspace.release()


def _run_part(stage: Stage, workspace: Workspace, options: RunOptions, part: Part) -> None:
    """Do the tasks of one part."""
    if workspace.finished:
        options.say(f"{options.out} is complete already: nothing to do")
        return
    tasks = [task for task in stage.tasks if part.owns(task.index)]
    _run(stage, tasks, workspace, options, None)
    options.say(
        f"part {part}: {len(tasks)} of {len(stage.tasks)} tasks, all done; "
        f"when all parts are: vlm-prep finish {options.out}"
    )


def _look_after(stage: Stage, workspace: Workspace, options: RunOptions) -> Manifest:
    """Return the manifest of a finished store; make shards again that are missing or cut."""
    manifest = read_manifest(options.out)
    lost = lost_shards(options.out, manifest, stage.tasks, stage.numbers)
    if not lost:
        options.say(f"{options.out} is complete already: nothing to do")
        return manifest
    options.say(f"making {len(lost)} missing or damaged shard(s) again: {', '.join(sorted(lost))}")
    reopen(workspace, manifest)
    redone = {maker.task.index: maker.task for maker in lost.values()}
    assignments = [Assignment(task=task, folder=workspace.shards) for task in redone.values()]
    total = sum(len(task.numbers) for task in redone.values())
    with (
        executor_of(stage.job, workspace, options) as executor,
        progress_of(total, stage.name, workspace, options) as progress,
    ):
        executor.run(
            assignments, lambda assignment, record: put_back(options.out, record, lost, workspace.shards), progress
        )
    workspace.close()
    return manifest


def _run(
    stage: Stage,
    tasks: Sequence[Task],
    workspace: Workspace,
    options: RunOptions,
    check: Callable[[Sequence[Record], Path, Send], Sequence[Poison] | None] | None,
) -> list[Record]:
    """Do what is not done of some tasks, until the records know all poison that was met; return them."""
    executor = executor_of(stage.job, workspace, options)
    found = workspace.poison()
    pending = workspace.pending([task.without(found) for task in tasks])
    if len(pending) < len(tasks):
        options.say(f"continuing: {len(tasks) - len(pending)} of {len(tasks)} tasks are done")
    total = sum(len(task.numbers) for task in pending)
    with executor, progress_of(total, stage.name, workspace, options) as progress:
        begin = [stage.begin] if stage.begin is not None and pending else []
        while True:
            found = workspace.poison()
            knowing = [task.without(found) for task in tasks]
            assignments = [Assignment(task=task, folder=workspace.shards) for task in workspace.pending(knowing)]
            first = begin.pop() if begin else None
            if first is not None:
                first = replace(first, task=first.task.without(found), folder=workspace.shards)
                assignments.insert(0, first)
            commits = Commits(workspace, options.events, first, stage.begun)
            executor.run(assignments, commits, progress)
            records = workspace.records(tasks)
            if options.part is None:  # shards get their final names by their number among those of all tasks
                workspace.recall(records)
            if check is not None:
                for poison in check(records, workspace.shards, sender(executor, workspace.shards)) or ():
                    workspace.add_poison(poison)
            if not workspace.pending([task.without(workspace.poison()) for task in tasks]):
                return records


class Commits:
    """Commits the records of tasks; those that are finished before the run's beginning is, after it: where it fails,
    none of them was."""

    def __init__(
        self,
        workspace: Workspace,
        events: Events,
        begin: Assignment | None = None,
        begun: Callable[[Any], None] | None = None,
    ) -> None:
        self._workspace, self._begin, self._begun, self._events = workspace, begin, begun, events
        self._held: list[tuple[Task, Record]] = []

    def __call__(self, assignment: Assignment, result: Any) -> None:
        if self._begin is not None and assignment.method == self._begin.method:
            self._begin = None
            if self._begun is not None:
                self._begun(result)
        if isinstance(result, Record):
            self._held.append((assignment.task, result))
        while self._begin is None and self._held:
            task, record = self._held.pop(0)
            self._workspace.commit(task, record)
            self._events("task", task=task.index, **record.counts)
            for reject in record.rejects:
                self._events("reject", sample_id=reject.sample_id, reason=reject.reason, message=reject.message)


def progress_of(rows: int, label: str, workspace: Workspace, options: RunOptions) -> ProgressBar:
    """Return who tells of a run's progress."""
    file = workspace.work / ("progress.json" if options.part is None else f"progress-{options.part.name}.json")
    return ProgressBar(rows, label, show=options.progress, say=options.say, file=file, events=options.events)


def executor_of(job: Job, workspace: Workspace, options: RunOptions) -> Executor:
    """Return who does the assignments of a run, telling the user and the workspace of poison."""

    def found(poison: Poison) -> None:
        workspace.add_poison(poison)
        options.say(f"row {poison.row} is rejected, {poison.reason}: {poison.message}")

    limits = Limits(sample_timeout=options.sample_timeout, worker_memory=options.worker_memory)
    if options.engine == "ray":
        from vlm_prep.engine.ray import RayExecutor

        # of a cluster the whole, unless a number was asked for; of this machine as many as without Ray
        count = options.workers or None
        return RayExecutor(job, count, limits, workspace.attempts, found, options.ray_address)
    return local_executor(job, workers=options.workers, limits=limits, scratch=workspace.scratch, found=found)


def sender(executor: Executor, folder: Path) -> Send:
    """Return how a stage has a worker call a method of its job."""

    def send(method: str, task: Task, *arguments: Any) -> Any:
        answers: list[Any] = []
        assignment = Assignment(task=task, folder=folder, method=method, arguments=arguments)
        executor.run(
            [assignment], lambda assignment, result: answers.append(result), lambda rows, tokens, rejects: None
        )
        return answers[0]

    return send
