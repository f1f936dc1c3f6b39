"""What the manifest says of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """What the manifest says of a shard."""

    name: str
    rows: int
    tokens: int
    bytes: int
    xxh3: str
    batches: tuple[tuple[int, int], ...]
    """(byte offset of the record batch in the file, rows) for each batch; a stream has no footer to seek by."""
    heads: tuple[str, ...] = field(default=(), compare=False)
    """Digests of the schema message and of each record batch's header, see `heads.py`; none in earlier stores and tars.
    `xxh3` covers them too, so that two shards are equal without."""
    compressed: bool = False
    """Whether record batches have to be decompressed, so that a row of a map is no view of it."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        said = {**asdict(self), "batches": [list(pair) for pair in self.batches], "heads": list(self.heads)}
        return said if said.pop("compressed") is False else {**said, "compressed": True}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ShardInfo:
        """Read what `to_json` wrote, see `manifest_rules.check_shard`."""
        pairs = tuple((int(offset), int(rows)) for offset, rows in data["batches"])
        return cls(**{**data, "batches": pairs, "heads": tuple(data.get("heads", ()))})
