"""One node's loader over tars, by webdataset's own splitters; prints the samples of each of its batches as JSON.

RANK=0 WORLD_SIZE=2 python tar_node.py STORE planned|webdataset WORKERS
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import webdataset
from torch.utils.data import DataLoader

from vlm_prep.stream import TarItems


def names(samples: list[dict[str, Any]]) -> list[str]:
    return [name for item in samples for name in item["sample_ids"]]


if __name__ == "__main__":
    store, how, workers = sys.argv[1:]
    items = TarItems(store, pixels=False)
    if how == "planned":
        tars, nodes = items.urls(int(os.environ["RANK"])), None
    else:
        tars, nodes = items.urls(), webdataset.split_by_node
    rows = webdataset.WebDataset(
        tars, nodesplitter=nodes, workersplitter=webdataset.split_by_worker, shardshuffle=False
    ).map(items)
    print(json.dumps(list(DataLoader(rows, batch_size=1, num_workers=int(workers), collate_fn=names))))
