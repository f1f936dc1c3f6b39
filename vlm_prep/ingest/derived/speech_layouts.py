"""Sets of speech as they are unpacked: LibriSpeech, AISHELL, FLEURS, GigaSpeech → audio and text, verbatim.

LibriSpeech   84/121123/84-121123.trans.txt, a line for each .flac beside it
AISHELL       transcript/aishell_transcript*.txt, and wav/<split>/<speaker>/<id>.wav
FLEURS        <split>.tsv without a heading, and audio/<split>/
GigaSpeech    GigaSpeech.json: parts of long recordings
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.media.places import natural_order

_TSV: Final = ("id", "file_name", "raw_transcription", "transcription", "characters", "num_samples", "gender")


def librispeech_files(path: Path, split: str | None) -> list[Path]:
    """Return the transcripts of LibriSpeech; none for another folder."""
    below = path / split if split else path
    return sorted(below.rglob("*.trans.txt"), key=lambda file: natural_order(str(file))) if below.is_dir() else []


def librispeech(base: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of LibriSpeech."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            if name:
                yield {"id": name, "audio": os.path.relpath(file.parent / f"{name}.flac", base), "text": text}


def aishell_files(path: Path, split: str | None) -> list[Path]:
    """Return the transcript of AISHELL and its sounds; none for another folder."""
    found = sorted((path / "transcript").glob("aishell_transcript*.txt"))[:1]
    return [*found, *sorted((path / "wav" / (split or "")).rglob("*.wav"))] if found else []


def aishell(base: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of AISHELL: the lines of its transcript whose sound is in the split, and sounds without a line."""
    sounds = {file.stem: os.path.relpath(file, base) for file in files[1:]}
    texts = {}
    for line in files[0].read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition(" ")
        texts[name] = text
    yield from ({"id": name, "audio": sound, "text": texts.get(name)} for name, sound in sounds.items())


def fleurs_files(path: Path, split: str | None) -> list[Path]:
    """Return the table of a FLEURS split; none for another folder."""
    table = path / f"{split or 'train'}.tsv"
    return [table] if table.is_file() and (path / "audio").is_dir() else []


def fleurs(base: Path, files: list[Path]) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of FLEURS."""
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            values = line.split("\t")
            if len(values) != len(_TSV):
                yield f"line {number} of {file.name}: {len(values)} fields, not {len(_TSV)}"
                continue
            row = dict(zip(_TSV, values, strict=True))
            yield {**row, "audio": os.path.join("audio", file.stem, row.pop("file_name"))}


def gigaspeech_files(path: Path, split: str | None) -> list[Path]:
    """Return GigaSpeech's description; none for another source."""
    file = path / "GigaSpeech.json" if path.is_dir() else path
    return [file] if file.name == "GigaSpeech.json" and file.is_file() else []


def gigaspeech(base: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the segments of GigaSpeech."""
    for recording in orjson.loads(files[0].read_bytes())["audios"]:
        for part in recording["segments"]:
            times = {"start": part["begin_time"], "end": part["end_time"]}
            yield {"id": part["sid"], "audio": recording["path"], **times, "text": part["text_tn"]}
