"""Check a finished store: every shard's checksum, the accounts, and rows against the real processor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vlm_prep.core.errors import Reject, RejectReason, StoreError
from vlm_prep.core.processor_record import FAMILY_FROM
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.core.stored_settings import stored_settings
from vlm_prep.engine.tasks import Progress
from vlm_prep.processors.adapter import Adapter
from vlm_prep.processors.families.table import adapter_for
from vlm_prep.processors.load import load_processor
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.shards.object_store import StorePath, store_path
from vlm_prep.shards.reader import Store
from vlm_prep.shards.store_check import damaged_files, wrong_accounts
from vlm_prep.tokenize.encoder import SampleEncoder
from vlm_prep.tokenize.verify.choose import is_chosen, media_kind
from vlm_prep.tokenize.verify.real_processor import Oracle

MOST_SHOWN = 20
_COUNTED = ("rows", "checked", "differing", "unread")
_GONE = (RejectReason.MISSING_FILE, RejectReason.MEDIA_CHANGED)


@dataclass(kw_only=True)
class Findings:
    """What a check found."""

    shards: int = 0
    rows: int = 0
    damaged: list[str] = field(default_factory=list)
    """Shards and accounts that are wrong."""
    identity: list[str] = field(default_factory=list)
    """What of the processor is not as it was when the store was made."""
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    """{kind of media: {rows, checked, differing, unread}}; `unread` are those that could not be compared, since their
    media are gone or were changed."""
    differences: list[str] = field(default_factory=list)
    """The first differing or unread rows, with what differs."""

    @property
    def differing(self) -> int:
        """Rows that are others than the processor makes."""
        return sum(counts["differing"] for counts in self.kinds.values())

    @property
    def unread(self) -> int:
        """Rows whose media could not be read as they were tokenized."""
        return sum(counts["unread"] for counts in self.kinds.values())

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong (another processor identity is told, its rows decide)."""
        return not self.damaged and not self.differing and not self.unread

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**vars(self), "sound": self.sound}


def check_store(
    folder: str | StorePath,
    processor: str | None = None,
    fraction: float = 1.0,
    progress: Progress = lambda rows, tokens, rejects: None,
    *,
    trust_remote_code: bool = False,
    token_hook: str | None = None,
) -> Findings:
    """Check the store in `folder`.

    Examples:
        >>> found = vp.verify(folder / "tok", "builtin:qwen2.5-vl-mini")
        >>> found.sound, found.rows
        (True, 7)

    Args:
        folder: a finished store of any stage, also on an object store.
        processor: compare rows of a tokenized store with this processor; None checks checksums and accounts only.
        fraction: share of rows to compare, chosen by a hash of their sample_id.
        progress: told of the rows that were looked at.
        trust_remote_code: run the Python code that comes with `processor`, if the store was made with such.
        token_hook: the hook that the store was made with, which is run again.

    Raises:
        StoreError: unfinished, no store, or rows are to be compared and it is not a tokenized one.
        ProcessorError: the processor does not load.
    """
    folder = store_path(folder)
    manifest = read_manifest(folder)
    shards = manifest.shards()
    found = Findings(shards=len(shards), rows=sum(info.rows for _, info in shards))
    config: TokenizeConfig | None = None
    if processor is not None:  # refused before an hour of reading
        if manifest.stage != "tokenize":
            raise StoreError(
                f"{folder} holds the output of `{manifest.stage}`",
                "rows are compared in a tokenized store; without `processor` checksums and accounts are checked",
            )
        stored, trust = manifest.config, trust_remote_code
        config = stored_settings(TokenizeConfig, stored, folder, trust_remote_code=trust, token_hook=token_hook)
    found.damaged = [*damaged_files(folder, manifest), *wrong_accounts(folder, manifest)]
    if processor is not None and config is not None and not found.damaged:
        _check_rows(Store(folder), processor, config, fraction, found, progress)
    return found


def _check_rows(
    store: Store, processor: str, config: TokenizeConfig, fraction: float, found: Findings, progress: Progress
) -> None:
    loaded = load_processor(processor, config.processor)
    adapter = adapter_for(loaded)
    _must_be_the_family(store, adapter)
    oracle = Oracle(SampleEncoder(adapter, config), config, store.manifest.processor.get("payload"))
    found.identity = _identity_changes(store.manifest.processor["identity"], adapter.loaded.identity)
    for row in store.rows():
        counts = found.kinds.setdefault(media_kind(row["media"]), dict.fromkeys(_COUNTED, 0))
        counts["rows"] += 1
        if is_chosen(row["sample_id"], fraction):
            counts["checked"] += 1
            what, lines = _differences(oracle, row)
            counts[what] += bool(lines)
            if lines and len(found.differences) < MOST_SHOWN:
                found.differences.append(f"{row['sample_id']}: " + "; ".join(lines))
        progress(1, len(row["input_ids"]), 0)
    found.kinds = dict(sorted(found.kinds.items()))


def _must_be_the_family(store: Store, adapter: Adapter) -> None:
    """Refuse a store whose rows hold other tensors than the processor's family has here.

    Raises:
        StoreError: they do, as where the package of a family is not installed.
    """
    then = store.manifest.processor
    if {tensor["name"] for tensor in then["tensors"]} != {tensor.name for tensor in adapter.geometry}:
        made, here = (each.get(FAMILY_FROM, "vlm-prep") for each in (then["identity"], adapter.loaded.identity))
        raise StoreError(
            f"{store.folder} is of the family {then['family']} of {made}; here it is {adapter.family} of {here}",
            f"install {made}, or make the store again" if made != here else "make the store again",
        )


def _differences(oracle: Oracle, row: dict[str, Any]) -> tuple[str, list[str]]:
    """What a row counts as where there are any, and they."""
    try:
        return "differing", list(oracle.compare(row).differences)
    except Reject as reject:
        return "unread" if reject.reason in _GONE else "differing", [f"{reject.reason}: {reject.message}"]


def _identity_changes(stored: dict[str, str], now: dict[str, str]) -> list[str]:
    names = sorted({*stored, *now})
    return [
        f"{name}: {stored.get(name, 'absent')} when the store was made, {now.get(name, 'absent')} now"
        for name in names
        if stored.get(name) != now.get(name)
    ]
