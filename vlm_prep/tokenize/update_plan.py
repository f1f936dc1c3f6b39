"""What an update of a tokenized store would do: which of its shards stay, which rows are copied, which are done again.

Rows of the source and of the store are matched by digest (`ingest.row_digests`), those that kept their sample_id
first. A matched row is done again all the same where its media files are not what they were, or where its new
sample_id is, or the old one was, among those whose pictures are decoded for the comparison. Where other settings
concern it (`update_layers`) it is encoded again with its media as they are known. A task of the store
whose rows all stand together and unchanged keeps its shards; between such tasks rows are written anew, the
unchanged ones as they stand in the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import eq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import Reject
from vlm_prep.engine.tasks import Task, rows_per_task
from vlm_prep.ingest.row_digests import Digests, pieces_of
from vlm_prep.media.file_state import Stats, state_of
from vlm_prep.media.files import digest_ends, digest_matches, read_bytes, read_ends
from vlm_prep.media.gathered import NOTHING_GATHERED, Gathered
from vlm_prep.shards.reader import Store
from vlm_prep.shards.row_ledger import NO_FILES, UNKNOWN, RowLedger
from vlm_prep.tokenize.update_layers import Layers
from vlm_prep.tokenize.verify.choose import is_chosen

NEW = -1
_AGAIN = frozenset({"worker_crashed", "timeout", "out_of_memory"})
"""Reasons of rejects that say more of the run than of the row."""


@dataclass(frozen=True, kw_only=True)
class KeptTask:
    """A task of the store whose shards stay."""

    old: int
    start: int
    """Of its rows in the new order."""


@dataclass(frozen=True, kw_only=True)
class UpdatePlan:
    """What an update does."""

    matches: NDArray[np.int64]
    """(rows of the source,) the row of the store that each is, NEW where it is done."""
    kept: dict[int, KeptTask]
    """Of the new tasks those that are the store's own, by index."""
    tasks: tuple[Task, ...]
    """All new tasks, in order."""
    added: int
    """Rows of the source that the store did not have: no row of this sample_id."""
    changed: int
    """Rows that the store had with other content, other media, or another place to be compared."""
    removed: int
    """Rows of the store whose sample_id is gone."""
    known: dict[int, int]
    """Of the rows that are done those whose media are known: {row of the source: row of the store}."""
    renewed: dict[int, int]
    """{row of the store: state of its media files} where they were touched and hold the same."""

    @property
    def nothing(self) -> bool:
        """Whether the store is as it should be."""
        return not (self.added or self.changed or self.removed) and len(self.kept) == len(self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return the accounts: rows kept with their shards, copied, and done."""
        kept = sum(len(self.tasks[index].numbers) for index in self.kept)
        done = int((self.matches == NEW).sum())
        return {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "rows_done": done,
            "rows_with_known_media": len(self.known),
            "rows_kept": kept,
            "rows_copied": len(self.matches) - kept - done,
        }

    def said(self) -> str:
        """Return the accounts as a line."""
        found = {name.removeprefix("rows_"): f"{count:,}" for name, count in self.to_json().items()}
        known = f" ({found['with_known_media']} of them without looking at media again)" if self.known else ""
        return (
            f"{found['added']} rows added, {found['changed']} changed, {found['removed']} removed: {found['done']} to "
            f"do{known}, {found['kept']} stay in their shards, {found['copied']} are copied into new ones"
        )


def plan_update(
    store: Store,
    ledger: RowLedger,
    digests: Digests,
    sample_ids: list[str],
    *,
    own: frozenset[str],
    fraction: float,
    reasons: dict[str, str],
    layers: Layers,
    gathered: Gathered = NOTHING_GATHERED,
) -> UpdatePlan:
    """Return what an update does.

    Args:
        store: the store as it is.
        ledger: its record of rows.
        digests: (rows, 16) of the source as it is.
        sample_ids: (rows,) of the source as it is.
        own: real paths of the source's data files.
        fraction: share of rows that are compared.
        reasons: {sample_id: reason} of the store's rejects.
        layers: what other settings than the store's mean.
        gathered: the run's media stores.
    """
    matches = _matched(ledger, digests, sample_ids)
    names = [ledger.sample_ids[old] if old != NEW else None for old in matches.tolist()]
    same = np.fromiter(map(eq, sample_ids, names), np.bool_, len(matches))
    clean = _Clean(store, ledger, own, reasons, layers, gathered)
    stays = layers.keeps(ledger, store.lengths)
    # of texts that were written, and stay under their names, there is nothing to look at
    at_rest = (ledger.documents > 0) & (ledger.states == NO_FILES) & stays
    known = {}
    for row in np.flatnonzero((matches != NEW) & ~(same & at_rest[matches])).tolist():
        old = int(matches[row])
        if not clean(old) or (
            not same[row]
            and fraction
            and is_chosen(sample_ids[row], fraction) != is_chosen(ledger.sample_ids[old], fraction)
        ):
            matches[row] = NEW
        elif not stays[old] and ledger.documents[old]:
            matches[row] = NEW
            if ledger.documents[old] == 1:  # of several, the record has the first one's notes alone
                known[row] = old
    same &= matches != NEW
    kept, tasks = _tasks(ledger, matches, same & (not layers.other_columns))
    before, now = set(ledger.sample_ids), set(sample_ids)
    done = [sample_ids[row] for row in np.flatnonzero(matches == NEW).tolist()]
    renamed = [sample_ids[row] for row in np.flatnonzero((matches != NEW) & ~same).tolist()]
    added = sum(name not in before for name in sample_ids)
    return UpdatePlan(
        matches=matches,
        kept=kept,
        tasks=tuple(tasks),
        added=added,
        # a renamed row's name was another one's
        changed=sum(name in before for name in chain(done, renamed)),
        removed=sum(name not in now for name in ledger.sample_ids),
        known=known,
        renewed=clean.renewed,
    )


def _matched(ledger: RowLedger, digests: Digests, sample_ids: list[str]) -> NDArray[np.int64]:
    """Return the row of the store with the same digest for each row of the source, each at most once."""
    place = {name: row for row, name in enumerate(ledger.sample_ids)}
    matches = np.array([place.get(name, NEW) for name in sample_ids], np.int64)
    rows = np.flatnonzero(matches != NEW)
    rows = rows[(digests[rows] == ledger.digests[matches[rows]]).all(axis=1)]
    olds, firsts = np.unique(matches[rows], return_index=True)
    stay = np.zeros(len(matches), np.bool_)
    stay[rows[firsts]] = True
    matches[~stay] = NEW
    left, unmatched = np.flatnonzero(~stay), np.ones(len(ledger), np.bool_)
    unmatched[olds] = False
    spare = np.flatnonzero(unmatched)[::-1]
    free: dict[bytes, list[int]] = defaultdict(list)
    for old, digest in zip(spare.tolist(), pieces_of(ledger.digests[spare]), strict=True):
        free[digest].append(old)
    for row, digest in zip(left.tolist(), pieces_of(digests[left]), strict=True):
        if alike := free.get(digest):
            matches[row] = alike.pop()
    return matches


class _Clean:
    """Tells whether what a row of the store depends on beside its text is as it was."""

    def __init__(
        self,
        store: Store,
        ledger: RowLedger,
        own: frozenset[str],
        reasons: dict[str, str],
        layers: Layers,
        gathered: Gathered,
    ) -> None:
        self._store, self._ledger, self._own, self._reasons = store, ledger, own, reasons
        self._layers, self._gathered = layers, gathered
        self._known: Stats = {}
        self.renewed: dict[int, int] = {}
        """States of files that were touched and hold the same, by row of the store."""
        self._begins = ledger.begins.tolist()
        self._documents = ledger.documents.tolist()
        self._states: list[int] = ledger.states.tolist()
        self._uris, self._edges = _stored_uris(store) if (ledger.states != NO_FILES).any() else ([], [])

    def __call__(self, row: int) -> bool:
        """Whether the media of a row of the store are as they were; of a reject, whether it would be one again."""
        if not self._documents[row]:
            reason = self._reasons.get(self._ledger.sample_ids[row])
            if reason is None or reason in _AGAIN or not self._layers.keeps_reject(reason):  # None: a retry wrote it
                return False
            return self._now(self._ledger.files[row] or ()) == self._states[row]
        if self._states[row] == NO_FILES:
            return True
        if self._states[row] == UNKNOWN:
            return False
        first = self._begins[row]
        uris = self._uris[self._edges[first] : self._edges[first + 1]]
        if (names := self._ledger.files[row]) and [self._gathered.place(uri)[0] for uri in names] != uris:
            return False  # another media store has them, or none
        now = self._now(uris)
        if now == self._states[row]:
            return True
        if not self._same_content(row):
            return False
        self.renewed[row] = now
        return True

    def _now(self, uris: Sequence[str]) -> int:
        return state_of(uris, self._own, self._known)

    def _same_content(self, row: int) -> bool:
        """Read the media of a row whose files were touched, and compare them with what is stored."""
        stored = self._store.row(self._begins[row])
        for struct in stored["media"]:
            for file in struct["files"]:
                try:
                    if not _is_same(file, tensors=bool(struct["tensors"])):
                        return False
                except Reject:
                    return False
        return True


def _is_same(file: Any, *, tensors: bool) -> bool:
    if tensors:
        return False  # what they were made of is not there to compare with
    uri, data = str(file["uri"]), file["bytes"]
    if data is not None:
        return read_bytes(uri) == bytes(data)
    digest = str(file["digest"])
    return (
        digest_ends(read_ends(uri)) == digest
        if digest.startswith("xxh3-ends:")
        else digest_matches(read_bytes(uri), digest)
    )


def _stored_uris(store: Store) -> tuple[list[str], list[int]]:
    """Return the places of the media files of all documents, in order, and where each document's begin and end in them;
    read from a column of text alone."""
    found: list[str] = []
    edges = [np.zeros(1, np.int64)]
    for shard in store.shards:
        for chunk in shard.column("media").chunks:
            files = chunk.flatten().field("files")
            of_files = np.concatenate([[0], np.cumsum(files.value_lengths().to_numpy(zero_copy_only=False))])
            of_media = np.concatenate([[0], np.cumsum(chunk.value_lengths().to_numpy(zero_copy_only=False))])
            edges.append(of_files[of_media][1:].astype(np.int64) + len(found))
            found += files.flatten().field("uri").to_pylist()
    return found, np.concatenate(edges).tolist()


def _tasks(
    ledger: RowLedger, matches: NDArray[np.int64], same: NDArray[np.bool_]
) -> tuple[dict[int, KeptTask], list[Task]]:
    """Return the new tasks: those of the store that stay, and ranges of at most a task's rows between them.

    Args:
        ledger: the store's record of rows.
        matches: of the source's rows, see `UpdatePlan`.
        same: which of them may stay where they are, their names included.
    """
    begins = np.cumsum([0, *(task.rows for task in ledger.tasks)]).tolist()
    by_start = {begin: number for number, begin in enumerate(begins[:-1]) if ledger.tasks[number].rows}
    # a run of rows that follow each other in the store, too, and kept their names
    joins = np.concatenate([[False], same[1:] & same[:-1] & (np.diff(matches) == 1)]) if len(matches) else same
    run_end = np.append(np.flatnonzero(~joins), len(matches))
    ends = run_end[np.searchsorted(run_end, np.arange(len(matches)), side="right")] if len(matches) else run_end
    kept: dict[int, KeptTask] = {}
    tasks: list[Task] = []
    most = rows_per_task(len(matches))
    row = gap = 0
    while row < len(matches):
        number = by_start.get(int(matches[row])) if same[row] else None
        size = 0 if number is None else ledger.tasks[number].rows
        if number is None or row + size > ends[row]:
            row += 1
            continue
        tasks += _between(gap, row, most, len(tasks))
        kept[len(tasks)] = KeptTask(old=number, start=row)
        tasks.append(Task(index=len(tasks), start=row, stop=row + size))
        row = gap = row + size
    tasks += _between(gap, len(matches), most, len(tasks))
    return kept, tasks


def _between(start: int, stop: int, most: int, first: int) -> list[Task]:
    cuts = range(start, stop, most)
    return [Task(index=first + at, start=cut, stop=min(cut + most, stop)) for at, cut in enumerate(cuts)]
