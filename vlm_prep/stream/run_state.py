"""Where a run stands: {version, fingerprint, seed, epoch, consumed}.

`consumed` counts rows that all ranks together have trained in this epoch, so a state saved with eight ranks resumes
with four, and with any number of loader workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlm_prep.core.errors import StoreError
from vlm_prep.core.visible import excerpt

VERSION = 2
"""Of the state and of the order: 2 shuffles by blocks."""
_LARGEST = 2**63 - 1


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
            state = cls(**data)
        except TypeError as error:
            raise StoreError(f"not a state of vlm_prep.stream: {error}") from error
        state._require_sense()
        return state

    def _require_sense(self) -> None:
        """Refuse what `to_json` never wrote: a checkpoint may come from elsewhere, or be damaged."""
        for name in ("seed", "epoch", "consumed"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= _LARGEST:
                raise StoreError(f"not a state of vlm_prep.stream: {name} is {excerpt(value)}")
        if not isinstance(self.fingerprint, str):
            raise StoreError(f"not a state of vlm_prep.stream: fingerprint is {excerpt(self.fingerprint)}")

    @classmethod
    def from_loader(cls, data: Mapping[str, Any]) -> State:
        """Take the state out of a `StatefulDataLoader.state_dict()`.

        That dict itself loads only into a loader with as many workers (torchdata 0.11 asserts it); the state in it,
        given to `ShardDataset.resume`, goes on with any number.

        Raises:
            StoreError: the loader was made without `sampler=dataset.sampler()`, or its state is some steps old.
        """
        if data.get("_steps_since_snapshot"):
            raise StoreError(
                f"the loader's state is {data['_steps_since_snapshot']} steps old",
                "save it after a multiple of the loader's snapshot_every_n_steps",
            )
        found = _find(data)
        if found is None:
            raise StoreError(
                "the loader's state holds no position of a store", "make the loader with sampler=dataset.sampler()"
            )
        return cls.from_json(found)

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


_FIELDS = frozenset({"version", "fingerprint", "seed", "epoch", "consumed"})


def _find(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the first dict in `data` that has a state's keys."""
    if set(data) >= _FIELDS:
        return data
    found = (_find(value) for value in data.values() if isinstance(value, Mapping))
    return next((state for state in found if state is not None), None)
