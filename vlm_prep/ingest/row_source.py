"""RowSource: one dataset's rows, read by pick number.

The end of ingest. The main process opens a source once (index and picks); tasks are ranges of picks, and a
worker reads its range with nothing but the pickled arrays and the file. One output for each pick, in order,
whatever the row holds: that is what makes `rows in = rows written + rows rejected` countable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.errors import InputError, Reject, RejectReason
from vlm_prep.core.fingerprint import digest_file
from vlm_prep.core.records import Rejected, Sample
from vlm_prep.core.row_json import RepeatedKeyError, RowJsonError, parse_row
from vlm_prep.core.sides import bounds_of, is_between, read_split
from vlm_prep.core.visible import excerpt
from vlm_prep.ingest.embedded import mark, mark_addresses, may_embed
from vlm_prep.ingest.format_packages import outside_format
from vlm_prep.ingest.formats import to_sample
from vlm_prep.ingest.index import RowIndex, build_index, read_row
from vlm_prep.ingest.kept_columns import kept_of, left_unread
from vlm_prep.ingest.mock_rows import MockIndex, mock_index
from vlm_prep.ingest.row_hook import hooked, row_hook_digest
from vlm_prep.ingest.sampling import copies, occurrences, pick_rows
from vlm_prep.ingest.sniff import open_input
from vlm_prep.ingest.spec import COLUMN_NAMES, DatasetSpec
from vlm_prep.ingest.table_files import TableIndex, build_table_index
from vlm_prep.media.delimited import delimiter_of
from vlm_prep.media.text_files import form_of, is_encoded, is_table_otherwise, plain_name

STAGE = "ingest"
_OPTIONS: Final = (
    *("split", "subset", "commit", "limit", "side", "system_prompt", "user_prompt", "min_duration", "max_duration"),
    *("missing_tags", "repeated_tags", "tag_blanks", "ignore_keys", "kept"),
    *("encoding", "lenient_json", "rows_key", "mapping"),
)
"""What of a spec is described where it is not the default."""
_MOST_PICKS: Final = 1_000_000_000
"""Rows that may be taken of a dataset, each as often as it is taken; their numbers lie in memory."""
RE_ENCODED: Final = "read_encoding"
TABLE_OTHERWISE: Final = "read_delimited"
OUTSIDE = "media_outside"
"""Note of a media outside of its data file's folder and its media folder."""


def said_of_outside(totals: Mapping[str, Any]) -> str | None:
    """Return what to say of rows whose media lie elsewhere, where there are some."""
    count = totals.get(OUTSIDE)
    return count and (
        f"note: {count:,} rows read media outside of their data file's folder and media_dir; --media-root says which "
        "folders rows may read"
    )


@dataclass(frozen=True, slots=True)
class RowSource:
    """The picked rows of one dataset; holds arrays only, so it can be sent to workers."""

    spec: DatasetSpec
    index: RowIndex | TableIndex | MockIndex
    picks: NDArray[np.int64]
    """(picks,) row numbers, 0-based, in the order they are read."""
    repeats: NDArray[np.int64]
    """(picks,) how often each pick's row was taken before."""

    @classmethod
    def open(cls, spec: DatasetSpec, limit: int | None = None) -> RowSource:
        """Index a dataset's file or files and pick its rows; `limit` keeps the first picks only.

        Raises:
            InputError: a file is gone, damaged, not one we read, or a broken array.
        """
        if spec.is_mock:
            index: RowIndex | TableIndex | MockIndex = mock_index(spec.file_name)
        elif spec.tables:
            index = build_table_index(spec.tables, spec.file, spec.file_name)
        else:
            with spec.own_name():
                index = build_index(spec.text, spec.reading)
        rows = np.concatenate([np.arange(*each) for each in spec.rows]) if spec.rows else None
        total = len(index) if rows is None else len(rows)
        if total * spec.sample_ratio > _MOST_PICKS:
            what = f"{total:,} rows, each {spec.sample_ratio:g} times (sample_ratio), are more than {_MOST_PICKS:,}"
            raise InputError(f"dataset {spec.name!r}: {what}", "Give a smaller sample_ratio.")
        picks = pick_rows(total, spec.sample_ratio)
        limits = [each for each in (limit, spec.limit) if each is not None]
        picks = picks[: min(limits)] if limits else picks
        if rows is not None:
            picks = rows[picks]
        return cls(spec, index, picks, copies(len(index), len(picks)) if rows is None else occurrences(picks))

    def on_side(self, split_by: str, take: str) -> RowSource:
        """Return the source with those of its picks that are on a side of a split, see `core.sides`.

        Raises:
            InputError: the split cannot be read, or has no such side.
        """
        bounds, name = bounds_of(read_split(split_by), take), self.spec.name
        kept = np.fromiter((is_between(bounds, f"{name}/{row}") for row in self.picks), np.bool_, len(self.picks))
        spec = replace(self.spec, side=f"{take} of {split_by}")
        return replace(self, spec=spec, picks=self.picks[kept], repeats=self.repeats[kept])

    def __len__(self) -> int:
        return len(self.picks)

    def read(self, start: int, stop: int) -> Iterator[Sample | Rejected]:
        """Yield the picks `start:stop`, exactly one output for each, in order.

        Raises:
            InputError: a file is gone, damaged, or became shorter since it was indexed.
        """
        with self._reader() as read:
            for place in range(*slice(start, stop).indices(len(self))):
                yield self._read_pick(read, place)

    def first_object(self) -> dict[str, Any] | None:
        """Return the first of a few rows that is an object, whether or not it can be used; None where none is."""
        with self._reader() as read:
            for row in self.picks[:16].tolist():
                try:
                    value, _ = read(row)
                except Reject:
                    continue
                if isinstance(value, dict):
                    return value
        return None

    def raw(self, place: int) -> str:
        """Return the text of a pick's row as it stands in the file; of a table's row its values."""
        row, index = int(self.picks[place]), self.index
        if isinstance(index, TableIndex | MockIndex):
            return excerpt(index.read(row), 4000)
        with open_input(self.spec.text) as file:
            return read_row(file, int(index.starts[row]), int(index.ends[row])).decode(errors="backslashreplace")

    def content_digest(self) -> str:
        """Return the digest of the data files' bytes, for the run's fingerprint."""
        try:
            return (
                self.index.content_digest()
                if isinstance(self.index, TableIndex | MockIndex)
                else digest_file(self.spec.file)
            )
        except OSError as error:
            raise InputError(f"{self.spec.file}: {error.strerror or error}", "restore it, then start again") from error

    def describe(self) -> dict[str, Any]:
        """Return the resolved settings, without absolute paths, for manifests and for people."""
        spec = self.spec
        options = {
            name: list(value) if isinstance(value := getattr(spec, name), tuple) else value
            for name in _OPTIONS
            if getattr(spec, name) != getattr(DatasetSpec, name)
        }
        if spec.downloads is not None:
            options["download"] = list(spec.downloads.hosts)
        if spec.row_hook is not None:
            options["row_hook"] = [spec.row_hook, row_hook_digest(spec.row_hook)]
        columns = {role: spec.columns.get(role) or " or ".join(spec.column_names(role)) for role in COLUMN_NAMES}
        if spec.is_outside:
            found = outside_format(str(spec.format))
            options["format_from"] = [found.package, found.digest]
            columns = {name: name for name in sorted(found.columns)}
        if not spec.tables and not spec.is_mock and (form := form_of(spec.file)):
            options["text"] = form
        return {
            "dataset": spec.name,
            "file": spec.file_name,
            "kind": self.index.kind,
            "format": spec.format,
            "columns": columns,
            "tags": dict(spec.tags),
            # relative, so that moving data and media together changes nothing
            "media_dir": spec.media_dir
            if isinstance(spec.media_dir, str)
            else os.path.relpath(spec.media_dir, spec.folder),
            "sample_ratio": spec.sample_ratio,
            "rows": len(self.index),
            "picks": len(self),
            **options,
        }

    def sample_id(self, place: int) -> str:
        """Return the id of a pick: `<dataset>/<row>`, and `#<copy>` from the second time on."""
        copy = int(self.repeats[place])
        return f"{self.spec.name}/{self.picks[place]}" + (f"#{copy}" if copy else "")

    def sample_ids(self) -> list[str]:
        """Return the ids of all picks, in order."""
        head = f"{self.spec.name}/"
        if not self.repeats.any():
            return [head + row for row in map(str, self.picks.tolist())]
        return [self.sample_id(place) for place in range(len(self))]

    def places(self, sample_ids: Collection[str]) -> list[int]:
        """Return the picks whose ids are among `sample_ids`, in order."""
        head = f"{self.spec.name}/"
        names = [name.removeprefix(head).partition("#")[0] for name in sample_ids if name.startswith(head)]
        rows = np.array([int(name) for name in names if name.isdecimal()], dtype=np.int64)
        near = np.flatnonzero(np.isin(self.picks, rows)).tolist()
        return [place for place in near if self.sample_id(place) in sample_ids]

    def reject(self, place: int, stage: str, reason: str, message: str, kept: str = "") -> Rejected:
        """Return the reject of a pick; the row itself is not read."""
        source, line = self._stands(int(self.picks[place]))
        return Rejected(
            sample_id=self.sample_id(place),
            dataset=self.spec.name,
            source=source,
            line=line,
            stage=stage,
            reason=reason,
            message=message,
            kept=kept,
        )

    def _stands(self, row: int) -> tuple[str, int]:
        """Return the file and the line of a row."""
        index = self.index
        if isinstance(index, TableIndex | MockIndex):
            file, place = index.place(row)
            return index.names[file], place + 1
        return self.spec.file_name, int(index.lines[row])

    @contextmanager
    def _reader(self) -> Iterator[Callable[[int], tuple[Any, frozenset[str]]]]:
        """Give a function that parses a row and says what it noted."""
        index, spec = self.index, self.spec
        if isinstance(index, TableIndex | MockIndex):
            yield lambda row: (index.read(row), frozenset())
            return
        notes = index.notes | ({RE_ENCODED} if is_encoded(spec.file, spec.encoding) else set())
        notes |= {TABLE_OTHERWISE} if is_table_otherwise(spec.text) else set()
        with open_input(spec.text) as file:
            yield lambda row: _json_row(file, index, row, spec, notes)

    def _read_pick(self, read: Callable[[int], tuple[Any, frozenset[str]]], place: int) -> Sample | Rejected:
        row = int(self.picks[place])
        source, line = self._stands(row)
        kept = ""
        try:
            value, notes = read(row)
            if self.spec.row_hook is not None:
                value = hooked(self.spec.row_hook, value)
            if self.spec.downloads is not None:
                value = mark_addresses(value, self.spec.downloads)
            kept = kept_of(value, self.spec)
            sample = to_sample(value, self.spec, sample_id=self.sample_id(place), source=source, line=line)
        except Reject as reject:
            return self.reject(place, STAGE, reject.reason.value, reject.message, kept)
        if notes:
            sample = replace(sample, notes=tuple(sorted({*sample.notes, *notes})))
        if kept:
            sample = replace(sample, kept=kept, unread=left_unread(sample.unread, self.spec))
        return self._noted(self._bounded(sample))

    def _noted(self, sample: Sample) -> Sample:
        """Return the sample with a note on each media that lies outside of its data file's folder and its media folder;
        `media_root` is what forbids it."""
        near = self.spec.near
        if all(near.holds(uri) for each in sample.media for uri in each.uris):
            return sample
        media = tuple(
            each if all(map(near.holds, each.uris)) else replace(each, notes=(*each.notes, OUTSIDE))
            for each in sample.media
        )
        return replace(sample, media=media)

    @property
    def data_files(self) -> frozenset[str]:
        """Return the real paths of the dataset's files."""
        if self.spec.is_mock:
            return frozenset()
        return frozenset(os.path.realpath(path) for path in (self.spec.file, *self.spec.tables))

    def _bounded(self, sample: Sample) -> Sample:
        """Return the sample with the dataset's bounds of durations on its audio; they are held when it is probed."""
        shortest, longest = self.spec.min_duration, self.spec.max_duration
        if shortest is None and longest is None:
            return sample
        media = (
            replace(each, min_seconds=shortest, max_seconds=longest) if each.kind == "audio" else each
            for each in sample.media
        )
        return replace(sample, media=tuple(media))


def _json_row(
    file: BinaryIO, index: RowIndex, row: int, spec: DatasetSpec, of_file: frozenset[str]
) -> tuple[Any, frozenset[str]]:
    start, end = int(index.starts[row]), int(index.ends[row])
    data = read_row(file, start, end)
    value, notes = _parse(data, int(index.lines[row]), spec)
    if isinstance(value, str) and delimiter_of(plain_name(spec.file)):  # what is wrong with a record
        raise Reject(RejectReason.BAD_ROW, f"line {int(index.lines[row])}: {value}")
    if may_embed(data) and spec.encoding is None:  # what needs a word of the user to be read is found by no uri
        value = mark(value, str(spec.file), (start, end - start))
    return value, notes | of_file


def _parse(data: bytes, line: int, spec: DatasetSpec) -> tuple[Any, frozenset[str]]:
    try:
        return parse_row(data, lenient=spec.lenient_json)
    except RepeatedKeyError as error:
        raise Reject(RejectReason.DUPLICATE_KEY, f"line {line}: {error.message}") from error
    except RowJsonError as error:
        where = f"line {line + error.line - 1}, column {error.column}"
        raise Reject(RejectReason.BAD_JSON, f"{where}: {error.message}") from error
