"""What becomes of rows with a class's processor: exact rows, rejects with a reason, or a sentence; nothing else.

`PYTHONPATH=tests python -m families.outcomes` writes the table of all classes anew (`processors/families/checked.py`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from families.zoo import ONE_TURN, build, chat_classes
from PIL import Image
from sources import Rows

from vlm_prep.core.errors import ProcessorError
from vlm_prep.core.records import Media, Message, Rejected, Sample
from vlm_prep.core.settings import TokenizeConfig
from vlm_prep.processors.families.checked import Checked, write
from vlm_prep.tokenize.tokenize_job import TokenizeJob, row_of

ROWS: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "picture": ("image:2",),
    "small picture": ("image:0",),
    "large picture": ("image:3",),
    "pictures": ("image:1", "image:2", "image:0"),
    "video": ("video:6",),
    "videos": ("video:4", "video:4"),
    "unequal videos": ("video:4", "video:2"),
    "sound": ("audio:16000",),
    "sounds": ("audio:8000", "audio:20000"),
    "video and pictures": ("video:4", "image:1", "image:2"),
    "all kinds": ("video:4", "image:1", "audio:16000"),
}
SIZES = ((40, 30), (120, 80), (300, 210), (900, 700))


def media_in(folder: Path) -> dict[str, Media]:
    """Small media of noise."""
    draws = np.random.default_rng(0)
    made: dict[str, Media] = {}
    for number, (width, height) in enumerate(SIZES):
        path = folder / f"{number}.png"
        Image.fromarray(draws.integers(0, 256, (height, width, 3), np.uint8)).save(path, compress_level=0)
        made[f"image:{number}"] = Media(kind="image", uris=(str(path),))
    frames = []
    for number in range(6):
        path = folder / f"frame{number}.png"
        Image.fromarray(draws.integers(0, 256, (90, 140, 3), np.uint8)).save(path)
        frames.append(str(path))
    for count in (2, 4, 6):
        made[f"video:{count}"] = Media(kind="video", uris=tuple(frames[:count]), frame_list=True, fps=2.0)
    for count in (8000, 16_000, 20_000):
        path = folder / f"{count}.wav"
        soundfile.write(path, draws.standard_normal(count).clip(-1, 1) / 8, 16_000)
        made[f"audio:{count}"] = Media(kind="audio", uris=(str(path),))
    return made


def sample(name: str, media: tuple[Media, ...], *, one_turn: bool = False) -> Sample:
    """A row in which media stand before, between and after texts, in two turns, or its second one alone."""
    first = [{"type": item.kind} for item in media[:2]]
    rest = [{"type": item.kind} for item in media[2:]]
    messages: list[Message] = [
        {"role": "user", "content": [*first, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A test."}]},
        {"role": "user", "content": [{"type": "text", "text": "And"}, *rest, {"type": "text", "text": "this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is brown."}]},
    ]
    if one_turn:
        messages = [{"role": "user", "content": [*first, *messages[2]["content"]]}, messages[3]]
    return Sample(sample_id=name, dataset="zoo", source="zoo", line=1, messages=messages, media=media)


def outcome(name: str, folder: Path) -> tuple[Checked, list[str]]:
    """Return what the table says of a class, and what it must not say: rows that are neither exact nor rejects."""
    try:
        built = build(name, folder / name)
        media = media_in(folder)
        alone = name in ONE_TURN
        samples = tuple(
            sample(row, tuple(media[each] for each in parts), one_turn=alone) for row, parts in ROWS.items()
        )
        job = TokenizeJob(Rows(samples), str(built), TokenizeConfig())
        job.setup()
    except (ProcessorError, ImportError, LookupError) as error:
        return Checked(why=_sentence(error, folder)), []
    adapter = job.encoder.adapter
    wrong: list[str] = []
    rejected: list[str] = []
    for number, row in enumerate(samples):
        (result,) = job.results(number, number + 1)
        if isinstance(result, Rejected):
            if {item.kind for item in row.media} <= set(adapter.kinds):
                rejected.append(row.sample_id)
        elif lines := job.oracle.compare(row_of(result)).differences:
            wrong += [f"{row.sample_id}: {line}" for line in lines]
    levels: dict[str, str] = {kind: str(adapter.levels.get(kind, "by size")) for kind in adapter.kinds}
    found = Checked(family=adapter.family, levels=levels, rejects=tuple(rejected))
    return found, wrong


def _sentence(error: Exception, folder: Path) -> str:
    """One line of an error, without what the table says itself."""
    said = " ".join(str(error).replace("|", "/").split()).replace(f"{folder}/", "")
    said = re.sub(r"^\w+: \w+ (takes no media in a chat )?", "", said)
    return said if len(said) <= 76 else said[:73].rstrip() + "..."


def main() -> None:
    """Write the table."""
    target = Path(__file__).parents[2] / "vlm_prep" / "processors" / "families" / "checked.py"
    head, opening, _ = target.read_text().partition('_TABLE = """\\\n')
    lines = []
    for name in sys.argv[1:] or chat_classes():
        with TemporaryDirectory() as folder:
            found, wrong = outcome(name, Path(folder))
        lines.append(write(name, found))
        print(lines[-1], *wrong, sep="\n    ", flush=True)
    if not sys.argv[1:]:
        target.write_text(head + opening + "\n".join([*lines, '"""']) + "\n")


if __name__ == "__main__":
    main()
