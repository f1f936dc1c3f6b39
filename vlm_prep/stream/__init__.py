"""What training imports: rows of a finished store in a reproducible order, and batches.

    order.py     position → row, a pure function of (seed, epoch)
    state.py     where a run stands, independent of world size and workers
    rows.py      rows of a tokenized store, of packs by rank, of packs by index
    dataset.py   ShardDataset: a map-style torch dataset over them
    sampler.py   hands out an epoch's rows, carries the position of a run
    masks.py     attention of packed documents: 4-D mask, document ids, cu_seqlens
    collate.py   PadCollate and PackedCollate

Nothing here loads a tokenizer or a model; transformers' image processor is imported when pixels are wanted.
"""

from vlm_prep.stream.collate import PackedCollate, PadCollate
from vlm_prep.stream.dataset import ShardDataset
from vlm_prep.stream.sampler import ShardSampler
from vlm_prep.stream.state import State

__all__ = ["PackedCollate", "PadCollate", "ShardDataset", "ShardSampler", "State"]
