"""Checkpoints of our loader by torchtitan's own manager, saved by two ranks and taken up by one and by three.

python torchtitan_resume.py MODEL_FOLDER ROWS.json PACKED_STORE OUT.json

Each rank is a process. OUT.json says of each number of ranks whether its batches are those that a run of one rank that
never stopped has at these places: {"2": before the checkpoint, "1": ..., "3": after it}.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from vlm_prep.processors.torchvision_cpu import ensure_torchvision

ensure_torchvision()

import torch  # noqa: E402
from torch import distributed  # noqa: E402
from torch.multiprocessing.spawn import start_processes  # noqa: E402
from torchtitan.components.checkpointer.dcp import CheckpointManager  # noqa: E402
from torchtitan.components.tokenizer import MultiModalTokenizer  # noqa: E402

from vlm_prep.trainers.torchtitan_loader import PackDataLoader  # noqa: E402

STEPS, LENGTH = 2, 1536  # longer than the packs


def loader(folder: str, packed: str, rank: int, world: int) -> PackDataLoader:
    tokenizer = MultiModalTokenizer.Config(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        pad_token="<|endoftext|>",
    ).build(tokenizer_path=folder)
    told = {"dp_world_size": world, "dp_rank": rank, "tokenizer": tokenizer, "seq_len": LENGTH, "local_batch_size": 1}
    made: PackDataLoader = PackDataLoader.Config(dataset_path=packed, seed=5).build(**told, snapshot_every_n_steps=1)
    return made


def run(rank: int, world: int, folder: str, packed: str, place: str, resumes: bool) -> None:
    """Take some batches, and save a checkpoint behind them; or after one that is taken up."""
    torch.set_num_threads(1)
    meet = f"file://{place}/meet-{world}"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    rows, model = loader(folder, packed, rank, world), torch.nn.Linear(1, 1)
    manager = CheckpointManager.Config(enable=True, folder="checkpoint", interval=1, keep_latest_k=0).build(
        dataloader=rows,
        model_parts=[model],
        optimizers=torch.optim.SGD(model.parameters()),
        lr_schedulers=None,
        states={},
        sd_adapter=None,
        base_folder=place,
    )
    if resumes:
        assert manager.load()
    walk = iter(rows)
    torch.save([next(walk)[0]["input"] for _ in range(STEPS)], f"{place}/{world}-{rank}.pt")
    if not resumes:
        manager.save(STEPS)
    distributed.destroy_process_group()


def in_turn(place: str, world: int) -> list[torch.Tensor]:
    by_rank = [torch.load(f"{place}/{world}-{rank}.pt") for rank in range(world)]
    return [by_rank[rank][step] for step in range(STEPS) for rank in range(world)]


def main() -> None:
    folder, _, packed, out = sys.argv[1:]
    torch.set_num_threads(1)
    walk, told = iter(loader(folder, packed, 0, 1)), dict[str, Any]()
    unbroken = [next(walk)[0]["input"] for _ in range(STEPS * (2 + 3))]
    with tempfile.TemporaryDirectory() as place:
        for world, resumes in ((2, False), (1, True), (3, True)):
            ranks = (world, folder, packed, place, resumes)
            start_processes(run, ranks, nprocs=world, start_method="fork")  # type: ignore[no-untyped-call]
            found, first = in_turn(place, world), STEPS * 2 if resumes else 0
            told[str(world)] = all(map(torch.equal, found, unbroken[first : first + len(found)]))
    Path(out).write_text(json.dumps({**told, "different": len({each.numpy().tobytes() for each in unbroken})}))


if __name__ == "__main__":
    main()
