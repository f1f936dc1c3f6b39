"""torchtitan's data loader interface over a packed store.

    from vlm_prep.trainers.torchtitan_loader import PackDataLoader

    config = qwen35_debugmodel()                                     # any of torchtitan's recipes
    config.dataloader = PackDataLoader.Config(dataset_path="out/packed")

Batches are those of torchtitan's own loaders: ({"input", "positions", ...}, labels), labels shifted, documents told by
positions that restart at 0; pictures and videos under the names of its `MultiModalCollator`. torchtitan imports this
module by your recipe, and no other of ours does: it is the only one that imports torchtitan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils.data import DataLoader
from torchtitan.components.dataloader import BaseDataLoader

from vlm_prep.core.errors import InputError
from vlm_prep.stream import PackedCollate, ShardDataset, State
from vlm_prep.stream.forms import UNKNOWN

_LOG = logging.getLogger(__name__)
_MEDIA: Final = {
    "pixel_values": ("image_grid_thw", "grid_thw"),
    "pixel_values_videos": ("video_grid_thw", "grid_thw_videos"),
}
"""{patches: (their grids in our batch, in torchtitan's)}"""
_OURS: Final = {
    "input_ids",
    "labels",
    "position_ids",
    "attention_mask",
    "seq_lens",
    "mm_token_type_ids",
    "second_per_grid_ts",
}
"""What torchtitan is given under another name, builds itself, or has in the positions."""


class PackDataLoader(BaseDataLoader):  # type: ignore[misc]  # torchtitan's types are not installed
    """Packs of a store for one data parallel rank, in the store's order of (seed, epoch).

    Args:
        config: see `Config`.
        dp_world_size: ranks that share the store.
        dp_rank: of this process.
        tokenizer: torchtitan's; a multimodal one says the special tokens that go with each batch.
        seq_len: tokens of a row of a batch; packs must not be longer.
        local_batch_size: packs in a batch.

    Raises:
        StoreError: the store cannot be read.
        InputError: the store is not packed, its packs are longer than `seq_len`, or it holds tensors that torchtitan's
            models do not read.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):  # type: ignore[misc]  # see above
        """`dataset_path` is the store."""

        seed: int = 0
        """Of the order."""
        shuffle: bool = True
        """False reads in the store's order."""
        infinite: bool = True
        """Begin the next epoch after each; torchtitan's schedule counts steps."""
        num_workers: int = 0
        """Worker processes that read."""
        prefetch_factor: int | None = None
        """Batches that each worker reads ahead."""
        pin_memory: bool = False
        """Copy batches to pinned memory."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        tokenizer: Any,
        seq_len: int,
        local_batch_size: int,
        **_theirs: Any,
    ) -> None:
        if not config.dataset_path:
            raise InputError("PackDataLoader.Config has no dataset_path", "give the folder of a packed store")
        self._rows = ShardDataset(
            config.dataset_path, rank=dp_rank, world_size=dp_world_size, seed=config.seed, shuffle=config.shuffle
        )
        self._infinite, self._size, self._rank = config.infinite, local_batch_size, dp_rank
        self._batches = 0  # of this epoch, given to the trainer since it began or was resumed
        left = len(self._rows) % local_batch_size
        if left:
            _LOG.warning(
                "%s: each epoch leaves out the last %d of a rank's %d packs in its order, which fill no batch of %d",
                self._rows.path,
                left,
                len(self._rows),
                local_batch_size,
            )
        self._loader = DataLoader(
            self._rows,
            batch_size=local_batch_size,
            sampler=self._rows.sampler(),
            drop_last=True,
            num_workers=config.num_workers,
            prefetch_factor=config.prefetch_factor if config.num_workers else None,
            pin_memory=config.pin_memory,
            collate_fn=TitanCollate(self._rows, seq_len, special_tokens(tokenizer)),
        )

    def __iter__(self) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """Give (inputs, labels) of each batch."""
        while True:
            for batch in self._loader:
                self._batches += 1
                yield batch
            self._rows.set_epoch(self._rows.epoch + 1)
            self._batches = 0
            if not self._infinite:
                return

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the store, the same on each rank."""
        return self._rows.state(self._batches * self._size * self._rows.world_size).to_json()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a position, also one that was saved by another number of ranks.

        Raises:
            StoreError: it is of another store or seed.
        """
        if state_dict:
            self._rows.resume(State.from_json(state_dict))
            self._batches = 0


class TitanCollate:
    """Lays packs as torchtitan's models take them.

    Returns (inputs, labels) of B packs in S = `seq_len` tokens: `input` int64 (B, S), `positions` int64 (B, S) that
    restart at 0 in each document and in what pads the pack, labels int64 (B, S) shifted within each document, -100
    where untrained. For pictures (and videos, under `pixel_values_videos` and `grid_thw_videos`) `pixel_values` float
    (media, most patches of one, values of a patch), padded with zeros, and `grid_thw` int64 (media, 3); with them, for
    models with mRoPE, `mrope_positions` int64 (B, S, 3), and `special_tokens`, {name_id: int}. What a batch lacks is
    None under its name.

    Args:
        rows: the packs.
        seq_len: see above.
        special: of a multimodal tokenizer, None for text alone.
    """

    def __init__(self, rows: ShardDataset, seq_len: int, special: Mapping[str, int] | None) -> None:
        if "seq_lens" not in rows.columns:
            raise InputError(
                f"{rows.path} is not packed", f"run `vlm-prep pack {rows.path} --pack-length {seq_len}` first"
            )
        longest = int(rows.manifest.config["pack_length"])
        if longest > seq_len:
            raise InputError(
                f"{rows.path} has packs of {longest} tokens, training.seq_len is {seq_len}",
                f"pack with --pack-length {seq_len}, or train with seq_len {longest}",
            )
        self.special, self.mrope = special, rows.manifest.processor.get("mrope") is not None
        # torchtitan makes its own masks, of the positions: what transformers' layers need says nothing here
        self.collate = PackedCollate.for_store(
            rows,
            mask="document_ids",
            attention="torchtitan",
            backbone=UNKNOWN,
            model=None,
            shift=True,
            counts=False,
            max_length=seq_len,
        )

    def __call__(self, items: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], torch.Tensor]:
        """Collate packs."""
        batch = self.collate(items)
        self._check(batch)
        inputs: dict[str, Any] = {
            "input": batch["input_ids"],
            "positions": within_documents(batch["seq_lens"], batch["input_ids"].shape[1]),
        }
        if self.special is not None:
            inputs["special_tokens"] = dict(self.special)
            for patches, (ours, theirs) in _MEDIA.items():
                there = patches in batch
                inputs[patches] = patches_by_media(batch[patches], batch[ours]) if there else None
                inputs[theirs] = batch[ours] if there else None
            if self.mrope and any(name in batch for name in _MEDIA):
                inputs["mrope_positions"] = batch["position_ids"].permute(1, 2, 0).contiguous()
        return inputs, batch["labels"]

    def _check(self, batch: Mapping[str, Any]) -> None:
        grids = {ours for ours, _ in _MEDIA.values()}
        media = [name for name in batch if name not in _OURS]
        if self.special is None and media:
            raise InputError(
                f"the packs hold media ({', '.join(sorted(media))}), and the recipe's tokenizer is one for text alone",
                "use torchtitan's MultiModalTokenizer and a model with a vision encoder",
            )
        unread = sorted(set(media) - grids - set(_MEDIA))
        if unread:
            raise InputError(
                f"torchtitan's models do not read {', '.join(unread)}",
                "they take pictures and videos as Qwen-VL's processors give them, and no weights of tokens",
            )


def special_tokens(tokenizer: Any) -> dict[str, int] | None:
    """Return {name_id: int} of torchtitan's multimodal tokenizer, None for another."""
    names: Sequence[str] = getattr(tokenizer, "TOKEN_FIELDS", ())
    return {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in names} or None


def within_documents(seq_lens: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """Return int64 (packs, length): each document's own positions from 0, and so of what pads a pack."""
    rows = []
    for lengths in seq_lens:
        padding = length - int(lengths.sum())
        counts = [*lengths.tolist(), padding] if padding else lengths.tolist()
        rows.append(torch.cat([torch.arange(count) for count in counts]))
    return torch.stack(rows)


def patches_by_media(patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """Return float (media, most patches of one, values of a patch): joined patches parted by media, zeros behind."""
    parts = torch.split(patches, grids.prod(dim=1).tolist())
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
