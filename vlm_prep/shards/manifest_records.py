"""What a manifest says of a run besides its shards, as types: `manifest_rules` checks them when a manifest is read.

What readers and reports look up without asking is required; the rest may be missing, as it is in stores of earlier
versions.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class HookRecord(TypedDict):
    """What a token_hook changed."""

    name: str
    source: NotRequired[str]
    rows_changed: int


class RaisedRecord(TypedDict):
    """The comparison of pixels that were made when packing."""

    documents: int


class ProofRecord(TypedDict):
    """The comparison with the real processor, see `tokenize.verify.choose.proof`."""

    against: str
    compared: list[str]
    rows: dict[str, int]
    of: dict[str, int]
    level: NotRequired[str]
    fraction: NotRequired[float]
    shapes: NotRequired[list[str]]
    labels_found_twice: NotRequired[int]
    unreadable: NotRequired[int]
    different: NotRequired[int]
    token_hook: NotRequired[HookRecord]
    raised_at_pack: NotRequired[RaisedRecord]


class SpreadRecord(TypedDict):
    """How far apart the packs of a step are."""

    median: float
    p99: float


class DealRecord(TypedDict):
    """The steps of a random deal of the packs."""

    mixed_steps: int
    cost_spread: NotRequired[SpreadRecord]


class StepsRecord(DealRecord):
    """The steps of the plan."""

    steps: int
    random_deal: NotRequired[DealRecord]


class CostRecord(TypedDict):
    """What a token costs, see `pack.cost`."""

    attention: float
    vision: float
    of: str


class EpochsRecord(TypedDict):
    """See `pack.epochs.epoch_numbers`."""

    packs: list[int]
    documents: list[int]
    times_taken: dict[str, int]
    mates_again: float


class PlanRecord(TypedDict):
    """What `pack.pack_plan` counted."""

    lower_bounds: dict[str, int]
    steps: StepsRecord
    cost: NotRequired[CostRecord | None]
    epochs: NotRequired[EpochsRecord]


class FindingRecord(TypedDict):
    """See `certify.compare.Finding`."""

    form: str
    attention: str
    verdict: str
    logits: float | None
    loss: float | None
    why: str


class CertificateRecord(TypedDict):
    """See `certify.store_packs`."""

    model: str
    passed: bool
    packs: int
    documents: int
    tokens: int
    findings: list[FindingRecord]
    notes: list[str]


class UnreadRecord(TypedDict):
    """A key of rows that nobody read, see `ingest.unread_keys`."""

    rows: int
    example: str
    media: NotRequired[bool]
