"""A plain torch loop over packs, with a checkpoint in the middle of an epoch.

    vlm-prep tokenize vlm_prep/builtin/data/meta.json --processor builtin:qwen2.5-vl-mini --max-length 2048 --fps 2 --out out/tok
    vlm-prep pack out/tok --pack-length 2048 --world-size 2 --out out/packed
    python scripts/trainers/torch_loop.py out/packed
    python scripts/trainers/torch_loop.py out/packed --resume out/state.json --steps 8

On several ranks: rank and world_size from torch.distributed; nothing else changes, and a state saved by any rank
resumes on any number of them.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tiny_model import tiny_model
from torch.utils.data import DataLoader

from vlm_prep.stream import PackedCollate, ShardDataset, State, to_pixel_values


def train(store: str | Path, *, steps: int, save: Path | None = None, resume: Path | None = None) -> list[float]:
    """Train for some steps and return the losses.

    Args:
        store: a packed store.
        steps: optimizer steps.
        save: where the position goes, as a checkpoint would keep it.
        resume: a position saved before.
    """
    model: Any = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # pixels stay the bytes that payload `pixels` stores until they are where the model is
    dataset = ShardDataset(store, rank=0, world_size=1, seed=0, pixels="bytes")
    collate = PackedCollate.for_store(dataset, mask="sdpa", counts=False)
    loader = DataLoader(dataset, batch_size=1, sampler=dataset.sampler(), num_workers=2, collate_fn=collate)
    if resume is not None:
        dataset.resume(State.from_json(json.loads(resume.read_text())))
    losses: list[float] = []
    while len(losses) < steps:
        for step, batch in enumerate(loader, start=1):
            batch = to_pixel_values(batch, device=model.device)
            batch.pop("seq_lens")
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == steps:
                state = dataset.state(consumed=step * 1 * 1)  # steps x batch size x world size
                if save is not None:
                    save.write_text(json.dumps(state.to_json()))
                break
    return losses


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a folder, or s3://bucket/prefix")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--save", type=Path, default=Path("out/state.json"))
    parser.add_argument("--resume", type=Path)
    arguments = parser.parse_args()
    for loss in train(arguments.store, steps=arguments.steps, save=arguments.save, resume=arguments.resume):
        print(f"loss {loss:.6f}")


if __name__ == "__main__":
    main()
