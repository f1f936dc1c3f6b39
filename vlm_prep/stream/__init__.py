"""What training imports: rows of a finished store in a reproducible order, and batches.

    order.py     position → row, a pure function of (seed, epoch)
    mix.py       the same for several stores, mixed by weight
    run_state.py  where a run stands, independent of world size and workers
    mixed_rows.py  those of several stores, numbered through
    stored_rows.py  rows of a tokenized store, of packs by rank, of packs by index
    cache_size.py  does a cache of an object store's shards hold what the order reads from at a time
    dataset.py   ShardDataset: a map-style torch dataset over them
    mixture.py   MixedDataset: the same over several stores
    sampler.py   hands out an epoch's rows, carries the position of a run
    budget.py    the same by tokens instead of rows
    attention.py  attention of packed documents: positions, 4-D mask, document ids, cu_seq_lens, THD
    forms.py     which of these forms keeps documents apart, by model and attention
    document_padding.py  documents padded each to a multiple
    layer_masks.py  4-D masks for each kind of a model's layers
    dummy.py     a stand-in picture for batches without media
    buffers.py   memory for a batch's large tensors
    collate_base.py  what both collaters share
    media_rows.py  the media tensors of a batch's rows, beside each other
    decoder_batches.py  what an encoder-decoder's two halves are given
    collate.py   PadCollate and PackedCollate
    tar_items.py  samples of tars → items, for webdataset's own loader
    restore.py   stored bytes → pixel tensors, on the device

Nothing here loads a tokenizer or a model; transformers' image processor is imported when pixels are wanted.
"""

from vlm_prep.stream.budget import TokenBudget
from vlm_prep.stream.buffers import Buffers
from vlm_prep.stream.collate import PackedCollate, PadCollate
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.stream.dummy import DummyMedia
from vlm_prep.stream.mixture import MixedDataset
from vlm_prep.stream.restore import to_pixel_values
from vlm_prep.stream.run_state import State
from vlm_prep.stream.sampler import ShardSampler
from vlm_prep.stream.tar_items import TarItems

__all__ = [
    "Buffers",
    "DummyMedia",
    "MixedDataset",
    "PackedCollate",
    "PadCollate",
    "ShardDataset",
    "ShardSampler",
    "State",
    "TarItems",
    "TokenBudget",
    "to_pixel_values",
]
