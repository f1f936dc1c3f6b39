"""Where a command's store goes, or comes from: a folder, or an object store by way of a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

from vlm_prep.cli import options
from vlm_prep.core.errors import FirstRowsError, InputError, RejectRateError
from vlm_prep.core.fields import Flag, IsPath, Positional
from vlm_prep.core.named_sources import source_stem
from vlm_prep.core.remote import is_remote
from vlm_prep.core.run_settings import RunConfig

if TYPE_CHECKING:
    from vlm_prep.shards.cache import ShardCache

CacheDir = Annotated[
    Path | None,
    IsPath(),
    Doc("Folder for copies of an object store's shards. [default: $VLM_PREP_CACHE or ~/.cache/vlm-prep]"),
]
CacheBytes = Annotated[str | None, Doc("Most bytes in it, e.g. 500G. [default: 64G]")]
Local = Annotated[str, Positional()]
"""A folder of a store that is changed, see `local`."""
AnyStore = Annotated[str, Positional(), Doc("A folder made by ingest, tokenize or pack, or s3://bucket/prefix.")]
SourceNow = Annotated[str | None, Doc("Where the source is now. [default: where it was]")]
TrustPlaces = Annotated[
    bool, Doc("Open the places of rows, media and processor that a store names which you did not make here.")
]
ProcessorNow = Annotated[str | None, Flag(short="-p"), Doc("Where the processor is now. [default: where it was]")]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a store goes."""

    folder: Path
    url: str | None = None
    """On an object store, once it is finished in the folder."""


def place_for(source: str | Path, run: RunConfig, end: str) -> Place:
    """Return where to write: what was asked for, or the source's name with the stage's end, in this folder.

    Raises:
        OutputError: it is the source itself.
        InputError: settings that exclude each other.
    """
    url = run.out if is_remote(run.out) else None
    if run.work_dir is not None and url is None:
        raise InputError("`work_dir` has no meaning for an `out` that is a folder")
    if url is not None and run.part is not None:
        raise InputError("`part`: parts share a folder", "give a folder as `out`; finish it, then `vlm-prep push`")
    named = run.work_dir if url is not None else run.out
    chosen = Path(named or source_stem(source) + end)
    options.must_differ(source, chosen)
    return Place(folder=chosen, url=url)


def check_remote(url: str) -> None:
    """Refuse what is no address on an object store.

    Raises:
        InputError: it is none.
    """
    if not is_remote(url):
        raise InputError(f"{url}: expected an address such as s3://bucket/prefix")


def local(store: str) -> Path:
    """Return the folder of a store that a command changes.

    Raises:
        InputError: it is on an object store.
    """
    if is_remote(store):
        raise InputError(
            f"{store}: a store on an object store is not changed in place",
            f"vlm-prep pull {store} FOLDER, and give FOLDER; `vlm-prep push` it to a place of its own",
        )
    return Path(store)


def cache_of(folder: Path | None, size: str | None) -> ShardCache:
    """Return the cache for shards of an object store."""
    from vlm_prep.shards.cache import shard_cache

    return shard_cache(folder, None if size is None else options.bytes_of(size, "cache_bytes"))


@dataclass(frozen=True, kw_only=True)
class Work:
    """A stage that is ready to run."""

    place: Place
    say: Callable[[str], None]
    run: Callable[[], object]
    """Returns the manifest, None if there is no finished store to show."""
    preview: Callable[[], Any]
    """Returns what --dry-run shows."""
    identity: Callable[[], dict[str, Any]]
    """Returns all that the output depends on; what it takes to know that is there for the run, too."""

    def do(self) -> bool:
        """Run the stage and copy the store to its object store; return whether it is finished.

        Raises:
            RejectRateError: it is finished and copied, with too many rejects.
        """
        try:
            if self.run() is None:
                return False
        except FirstRowsError:
            raise
        except RejectRateError:
            self._push()
            raise
        self._push()
        return True

    def do_and_show(self, as_json: bool, *, dry_run: bool = False) -> None:
        """Do it and show the statistics of its output, also when it is complete with too many rejects; or show what
        would be done."""
        if dry_run:
            options.show_facts(self.preview(), as_json)
            return
        try:
            if not self.do():
                return
        except FirstRowsError:
            raise
        except RejectRateError:
            options.show_store(self.place.folder, as_json)
            raise
        options.show_store(self.place.folder, as_json)

    def _push(self) -> None:
        if self.place.url is not None:
            from vlm_prep.shards.transfer import push

            push(self.place.folder, self.place.url, self.say)
