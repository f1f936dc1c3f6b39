"""Reading audio against soundfile and the feature extractor: lengths, waveforms at a model's rate, features.

Per CPU second of this process on one core's threads, in turns of the ways. Made sound: tones and noise, written once as
WAV, FLAC, OGG and MP3 at 44.1 kHz in two channels; models take 16 kHz in one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import soundfile
from scipy.signal import resample_poly

from vlm_prep.core.records import Media
from vlm_prep.media.audio import read_waveform
from vlm_prep.media.probe import probe

OUT = Path("out/bench/audio")
FROM, TO = 44_100, 16_000
FORMATS = ("wav", "flac", "ogg", "mp3")
PROBES = 200


def main() -> None:
    """Write the sound, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="of each file")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    files = _sound(arguments.seconds)
    print(f"{arguments.seconds} s a file, {FROM} Hz, 2 channels; load {os.getloadavg()[0]:.1f}")
    for path in files:
        media = Media(kind="audio", uris=(str(path),))
        _compare(
            f"length of a {path.suffix[1:]}",
            arguments.repeat,
            PROBES,
            1e6,
            "µs",
            {
                "ours (probe)": partial(probe, media),
                "soundfile.info": partial(soundfile.info, str(path)),
            },
        )
    for path in files:
        data = path.read_bytes()
        times = _compare(
            f"waveform of a {path.suffix[1:]} at {TO} Hz",
            arguments.repeat,
            1,
            1e3,
            "ms",
            {
                "ours": partial(read_waveform, data, TO, str(path)),
                "soundfile, resample_poly": partial(_plain, path),
            },
        )
        print(f"    ours: {arguments.seconds / times['ours']:,.0f} times real time")
    _features(files[0], arguments.seconds, arguments.repeat)


def _sound(seconds: int) -> list[Path]:
    OUT.mkdir(parents=True, exist_ok=True)
    paths = [OUT / f"sound-{seconds}.{ending}" for ending in FORMATS]
    at = np.arange(seconds * FROM) / FROM
    noise = np.random.default_rng(0).standard_normal(len(at)) * 0.02
    left = 0.3 * np.sin(2 * np.pi * 220 * at * (1 + 0.1 * np.sin(at))) + noise
    for path in paths:
        if not path.exists():
            soundfile.write(path, np.stack([left, left[::-1]], axis=1).astype(np.float32), FROM)
    return paths


def _plain(path: Path) -> Any:
    channels, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    common = np.gcd(rate, TO)
    return resample_poly(channels.mean(axis=1), TO // common, rate // common).astype(np.float32)


def _features(path: Path, seconds: int, repeat: int) -> None:
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=128)
    wave = read_waveform(path.read_bytes(), TO, str(path))
    times = _compare(
        "features",
        repeat,
        1,
        1e3,
        "ms",
        {
            "WhisperFeatureExtractor": lambda: extractor(wave, sampling_rate=TO, return_tensors="np"),
        },
    )
    print(f"    {seconds / times['WhisperFeatureExtractor']:,.0f} times real time")


def _compare(
    what: str, repeat: int, calls: int, unit: float, name: str, ways: dict[str, Callable[[], object]]
) -> dict[str, float]:
    """Print the CPU time of a call of each way, the last way's as 1.0x; return the medians in seconds."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeat):
        for way, do in ways.items():
            start = time.process_time()
            for _ in range(calls):
                do()
            seconds[way].append((time.process_time() - start) / calls)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    usual = medians[list(ways)[-1]]
    print(f"{what}:")
    for way, middle in medians.items():
        print(f"  {way:<26} {middle * unit:9.1f} {name} ({usual / middle:.2f}x)", flush=True)
    return medians


if __name__ == "__main__":
    main()
