"""For every family: how its tokens are counted, and how much faster than its own processor, on one core.

Rows of one picture (a photograph corpus), one video (eight frames of the kit's clips) and one audio file (the kit's) go
two ways in one process: the plain one (read, decode, the processor's apply_chat_template) and ours (read the header,
encode, label). Ids of all rows are compared. Pictures are all of different sizes at first; the second pass shows what
the cache of sizes does.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

OUT = Path("out/bench")
REMOTE = ("kimi_vl", "nemotron_parse")
FRAMES = tuple(range(0, 24, 3))


def main() -> None:
    """Measure each family and print a table."""
    arguments = _arguments()
    if not (arguments.kit / "processors" / "assemble.py").exists():
        sys.exit(f"{arguments.kit}: the benchmark needs the kit of real processors and samples; none is there")
    folders = _processors(arguments.kit, arguments.only)
    pictures = _pictures(arguments.kit, arguments.samples)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    head = f"{'processor':<20}{'kind':<7}{'level':<9}{'rows':>5}"
    print(head + f"{'plain/s':>10}{'ours/s':>10}{'again/s':>10}{'ratio':>14}")
    equal = True
    for folder in folders:
        equal &= _family(folder, arguments, pictures)
    if not equal:
        sys.exit("ids differ from the real processor's")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=Path("../shared/kit"), help="folder of real processors and media")
    parser.add_argument("--samples", type=int, default=60, help="rows of one picture")
    parser.add_argument("--clips", type=int, default=6, help="rows of one video")
    parser.add_argument("--sounds", type=int, default=40, help="rows of one audio file")
    parser.add_argument("--only", nargs="*", default=[], help="names of processors")
    return parser.parse_args()


def _processors(kit: Path, only: list[str]) -> list[Path]:
    build = _builder()
    in_kit = sorted(path.name for path in (kit / "processors" / "families").iterdir())
    names = only or [*in_kit, *build.BUILT]
    folder = OUT / "procs"
    for name in set(names) & set(build.BUILT):
        if not (folder / name).exists():
            build.build(name, folder / name)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        script = [sys.executable, str(kit / "processors" / "assemble.py"), str(folder), *missing]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
    return [folder / name for name in names]


def _builder() -> Any:
    """The module of the tests that builds small real processors of families that the kit has none of."""
    spec = importlib.util.spec_from_file_location("build", Path("tests/families/build.py"))
    if spec is None or spec.loader is None:
        sys.exit("run this in the project's folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pictures(kit: Path, samples: int) -> list[str]:
    corpus = OUT / f"corpus-{samples}"
    if not (corpus / "meta.json").exists():
        script = kit / "bench" / "make_corpus.py"
        subprocess.run([sys.executable, str(script), str(corpus), "--samples", str(samples)], check=True)
    return sorted(str(path.resolve()) for path in (corpus / "media").iterdir())[:samples]


def _family(folder: Path, arguments: argparse.Namespace, pictures: list[str]) -> bool:
    from vlm_prep.core.records import Media
    from vlm_prep.core.settings import TokenizeConfig
    from vlm_prep.processors.families.table import adapter_for
    from vlm_prep.processors.load import load_processor
    from vlm_prep.tokenize.encoder import SampleEncoder

    config = TokenizeConfig(trust_remote_code=folder.name in REMOTE)
    adapter = adapter_for(load_processor(str(folder), config.processor))
    encoder = SampleEncoder(adapter, config)
    clips = sorted(str(path) for path in (arguments.kit / "data" / "videos").glob("*.mp4"))[: arguments.clips]
    sounds = sorted(str(path) for path in (arguments.kit / "data" / "audio").rglob("*.wav"))[: arguments.sounds]
    sources: dict[str, list[Any]] = {
        "image": [Media(kind="image", uris=(path,)) for path in pictures],
        "video": [Media(kind="video", uris=(path,), frame_indices=FRAMES) for path in clips],
        "audio": [Media(kind="audio", uris=(path,)) for path in sounds],
    }
    equal = True
    for kind in adapter.kinds:
        samples = [_sample(kind, number, media) for number, media in enumerate(sources[kind])]
        first_rate, again, ours = _ours(encoder, samples)
        plain_rate, plain = _plain(adapter, samples)
        same = sum(np.array_equal(left, right) for left, right in zip(ours, plain, strict=True))
        equal &= same == len(samples)
        level = adapter.levels.get(kind, "by size")
        ratio = f"{first_rate / plain_rate:.0f}x, {again / plain_rate:.0f}x"
        line = f"{folder.name:<20}{kind:<7}{level:<9}{len(samples):>5}{plain_rate:>10.1f}"
        line += f"{first_rate:>10,.0f}{again:>10,.0f}{ratio:>14}"
        print(line + ("" if same == len(samples) else f"   {len(samples) - same} DIFFER"), flush=True)
    return equal


def _sample(kind: str, number: int, media: Any) -> Any:
    from vlm_prep.core.records import Sample

    text = [{"type": "text", "text": f"What do you see or hear in number {number}?"}]
    messages = [
        {"role": "user", "content": [{"type": kind}, *text]},
        {"role": "assistant", "content": [{"type": "text", "text": f"Nothing that number {number} does not show."}]},
    ]
    return Sample(
        sample_id=f"bench/{number}", dataset="bench", source="bench", line=1, messages=messages, media=(media,)
    )


def _ours(encoder: Any, samples: list[Any]) -> tuple[float, float, list[Any]]:
    from dataclasses import replace

    from vlm_prep.media.probe import probe
    from vlm_prep.processors.runtime import describe_processor

    def once() -> tuple[float, list[Any]]:
        start = time.perf_counter()
        ids = []
        for sample in samples:
            media = tuple(probe(item)[0] for item in sample.media)
            ids.append(encoder.encode(replace(sample, media=media), (None,)).input_ids)
        return len(samples) / (time.perf_counter() - start), ids

    describe_processor(encoder.adapter)  # its one-time look at the processor's parts
    first, _ = once()
    again, ids = once()
    return first, again, ids


def _plain(adapter: Any, samples: list[Any]) -> tuple[float, list[Any]]:
    _plain_one(adapter, samples[0])
    start = time.perf_counter()
    ids = [_plain_one(adapter, sample) for sample in samples]
    return len(samples) / (time.perf_counter() - start), ids


def _plain_one(adapter: Any, sample: Any) -> Any:
    from PIL import Image

    from vlm_prep.media.audio import read_waveform
    from vlm_prep.media.video import probe_video, read_frames

    (media,) = sample.media
    path = media.uris[0]
    loaded: Any
    options: dict[str, Any] = {}
    if media.kind == "image":
        loaded = Image.open(path).convert("RGB")
    elif media.kind == "audio":
        loaded = read_waveform(Path(path).read_bytes(), adapter.sampling_rate, path)
    else:
        header = probe_video(path, path)
        loaded = read_frames(path, FRAMES, path)
        metadata = {
            "total_num_frames": header.total_frames,
            "fps": header.fps,
            "height": header.height,
            "width": header.width,
            "duration": (header.total_frames or 0) / (header.fps or 1.0),
            "frames_indices": list(FRAMES),
        }
        options = adapter.call_options([metadata])
    first, *rest = sample.messages
    content = [{**part, media.kind: loaded} if part["type"] == media.kind else part for part in first["content"]]
    made = adapter.call([{**first, "content": content}, *rest], None, options)
    return made["input_ids"][0].numpy()


if __name__ == "__main__":
    main()
