"""A user's program as a type checker sees it: checked by mypy with all other files, never run.

What is wrong in it must be seen as wrong: an ignored error that is none fails the check (warn_unused_ignores).
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import vlm_prep as vp
from vlm_prep.shards.manifest import Manifest

samples = vp.open_samples("rows.jsonl", format="messages")
made = vp.tokenize(samples, "p", vp.TokenizeConfig(), vp.RunOptions(out=Path("out")))
assert_type(made, Manifest | None)
collate = vp.PadCollate.for_store(vp.ShardDataset("out"), max_length=5)
assert_type(collate, vp.PadCollate)
vp.open_samples("rows.jsonl", formt="messages")  # type: ignore[call-arg]
vp.PadCollate.for_store(vp.ShardDataset("out"), max_lenght=5)  # type: ignore[call-arg]
vp.tokenize(samples)  # type: ignore[call-arg]
