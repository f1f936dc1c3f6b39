"""Where a run stands: {version, fingerprint, seed, epoch, consumed}.

`consumed` counts rows that all ranks together have trained in this epoch, so a state saved with eight ranks resumes with
four, and with any number of loader workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlm_prep.core.errors import StoreError

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """A position in the stream."""

    fingerprint: str
    """Of the store."""
    seed: int
    epoch: int
    consumed: int
    """Rows consumed in this epoch by all ranks together."""
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """Read what `to_json` wrote.

        Raises:
            StoreError: not a state, or one of another version.
        """
        if data.get("version") != VERSION:
            raise StoreError(
                f"the state has version {data.get('version')}, this vlm-prep reads {VERSION}",
                "resume with the version that saved it",
            )
        try:
            return cls(**data)
        except TypeError as error:
            raise StoreError(f"not a state of vlm_prep.stream: {error}") from error

    def check(self, fingerprint: str, seed: int) -> None:
        """Raise unless the state belongs to this store and seed.

        Raises:
            StoreError: it belongs to another.
        """
        if self.fingerprint != fingerprint:
            raise StoreError(
                f"the state was saved on another store (fingerprint {self.fingerprint}, this one is {fingerprint})",
                "resume on the store it was saved on, or start a new run without the state",
            )
        if self.seed != seed:
            raise StoreError(f"the state was saved with seed {self.seed}, the dataset has seed {seed}")
