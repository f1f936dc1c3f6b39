"""Sets of speech as they are unpacked → audio and text, verbatim.

LibriSpeech   dev-clean/84/121123/84-121123.trans.txt, a line for each .flac beside it
MLS           train/transcripts.txt, and train/audio/<speaker>/<book>/<id>.flac (or .opus)
AISHELL       transcript/aishell_transcript*.txt, and wav/<split>/<speaker>/<id>.wav
FLEURS        <split>.tsv without a heading, and audio/<split>/
GigaSpeech    GigaSpeech.json: parts of long recordings; a split is one of their subsets
LJSpeech      metadata.csv without a heading, fields parted by |, and wavs/
Kaldi         wav.scp and text, of a folder; segments, where they are
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from vlm_prep.core.errors import InputError
from vlm_prep.ingest.splits import ALL
from vlm_prep.media.places import natural_order

Row = dict[str, Any]
_TSV: Final = ("id", "file_name", "raw_transcription", "transcription", "characters", "num_samples", "gender")
_ENDINGS: Final = ("flac", "wav", "opus", "mp3", "ogg")


def _sound(folder: Path, name: str) -> Path:
    """Return the sound of a name, whatever it was converted to; where there is none, as the set has it."""
    files = (folder / f"{name}.{ending}" for ending in _ENDINGS)
    return next((file for file in files if file.exists()), folder / f"{name}.flac")


def _lines(file: Path) -> Iterator[str]:
    return (line for line in file.read_text(encoding="utf-8").split("\n") if line.strip())


def _folders(path: Path, of: str) -> list[str]:
    """Return the folders in `path` that hold a file of a pattern."""
    found = {file.relative_to(path).parts[0] for file in path.rglob(of)} if path.is_dir() else set()
    return sorted(name for name in found if (path / name).is_dir())


# ---- LibriSpeech ----


def librispeech_files(path: Path, split: str | None) -> list[Path]:
    """Return the transcripts of LibriSpeech; none for another folder."""
    below = path / split if split else path
    return sorted(below.rglob("*.trans.txt"), key=lambda file: natural_order(str(file))) if below.is_dir() else []


def librispeech_parts(path: Path) -> list[str]:
    """Return the parts of LibriSpeech."""
    return _folders(path, "*.trans.txt")


def librispeech(base: Path, files: list[Path], split: str | None) -> Iterator[Row]:
    """Yield the rows of LibriSpeech."""
    for file in files:
        for line in _lines(file):
            name, _, text = line.rstrip("\r").partition(" ")
            yield {"id": name, "audio": os.path.relpath(_sound(file.parent, name), base), "text": text}


# ---- MLS ----


def mls_files(path: Path, split: str | None) -> list[Path]:
    """Return the transcripts of MLS, of all its parts where it is given whole; none for another folder."""
    below = path / split if split else path
    found = [below / "transcripts.txt", *sorted(below.glob("*/transcripts.txt"))]
    return [file for file in found if file.is_file() and (file.parent / "audio").is_dir()]


def mls_parts(path: Path) -> list[str]:
    """Return the parts of MLS."""
    return [file.parent.name for file in mls_files(path, None) if file.parent != path]


def mls(base: Path, files: list[Path], split: str | None) -> Iterator[Row]:
    """Yield the rows of MLS."""
    for file in files:
        for line in _lines(file):
            name, _, text = line.rstrip("\r").partition("\t")
            sound = _sound(file.parent.joinpath("audio", *name.split("_")[:2]), name)
            yield {"id": name, "audio": os.path.relpath(sound, base), "text": text}


# ---- AISHELL ----


def aishell_files(path: Path, split: str | None) -> list[Path]:
    """Return the transcript of AISHELL and its sounds; none for another folder.

    Raises:
        InputError: the sounds are packed.
    """
    found = sorted((path / "transcript").glob("aishell_transcript*.txt"))[:1]
    sounds = sorted((path / "wav" / (split or "")).rglob("*.wav")) if found else []
    if found and not sounds and (packed := next((path / "wav").glob("*.tar.gz"), None)):
        raise InputError(f"{path}: {packed.relative_to(path)} and others hold its sounds", _unpack("wav/*.tar.gz"))
    return [*found, *sounds] if sounds else []


def aishell_parts(path: Path) -> list[str]:
    """Return the parts of AISHELL."""
    return _folders(path / "wav", "*.wav") if any((path / "transcript").glob("aishell_transcript*.txt")) else []


def aishell(base: Path, files: list[Path], split: str | None) -> Iterator[Row]:
    """Yield the rows of AISHELL: the lines of its transcript whose sound is in the split, and sounds without a line."""
    sounds = {file.stem: os.path.relpath(file, base) for file in files[1:]}
    texts = {}
    for line in _lines(files[0]):
        name, _, text = line.rstrip("\r").partition(" ")
        texts[name] = text
    yield from ({"id": name, "audio": sound, "text": texts.get(name)} for name, sound in sounds.items())


# ---- FLEURS ----


def fleurs_files(path: Path, split: str | None) -> list[Path]:
    """Return the table of a FLEURS split, or of all; none for another folder.

    Raises:
        InputError: the sounds of the split are packed, or it holds several languages.
    """
    parts = fleurs_parts(path)
    if split == ALL and parts:
        return [table for name in parts for table in fleurs_files(path, name)]
    if not parts and (languages := [each for each in sorted(path.glob("data/*")) if fleurs_parts(each)]):
        raise InputError(f"{path}: holds FLEURS by language", f"Give the folder of one, such as {languages[0]}.")
    chosen = split or (parts[0] if len(parts) == 1 else "train")
    if chosen not in parts:
        return []
    if not (path / "audio" / chosen).is_dir() and (packed := path / "audio" / f"{chosen}.tar.gz").is_file():
        raise InputError(f"{path}: audio/{packed.name} holds its sounds", _unpack(f"audio/{packed.name}"))
    return [path / f"{chosen}.tsv"]


def fleurs_parts(path: Path) -> list[str]:
    """Return the splits of FLEURS."""
    tables = sorted(file.stem for file in path.glob("*.tsv")) if (path / "audio").is_dir() else []
    return [name for name in tables if any((path / "audio").glob(f"{name}*"))]


def fleurs(base: Path, files: list[Path], split: str | None) -> Iterator[Row | str]:
    """Yield the rows of FLEURS."""
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            values = line.rstrip("\r").split("\t")
            if len(values) != len(_TSV):
                yield f"line {number} of {file.name}: {len(values)} fields, not {len(_TSV)}"
                continue
            row = dict(zip(_TSV, values, strict=True))
            yield {**row, "audio": os.path.join("audio", file.stem, row.pop("file_name"))}


def _unpack(what: str) -> str:
    return f"Unpack {what} where it lies."


# ---- GigaSpeech ----


def gigaspeech_files(path: Path, split: str | None) -> list[Path]:
    """Return GigaSpeech's description; none for another source, or where no part of it is in the split."""
    file = path / "GigaSpeech.json" if path.is_dir() else path
    found = [file] if file.name == "GigaSpeech.json" and file.is_file() else []
    return [] if split and found and _in_braces(split) not in _subsets(str(file)) else found


def gigaspeech_parts(path: Path) -> list[str]:
    """Return the subsets of GigaSpeech."""
    return [name.strip("{}") for name in sorted(_subsets(str(file)))] if (file := _giga(path)) else []


def gigaspeech(base: Path, files: list[Path], split: str | None) -> Iterator[Row]:
    """Yield the segments of GigaSpeech, of a subset those in it."""
    for recording in _recordings(files[0]):
        for part in recording["segments"]:
            if split and _in_braces(split) not in part.get("subsets", recording.get("subsets", ())):
                continue
            times = {"start": part["begin_time"], "end": part["end_time"]}
            yield {"id": part["sid"], "audio": recording["path"], **times, "text": part["text_tn"]}


def _giga(path: Path) -> Path | None:
    return next(iter(gigaspeech_files(path, None)), None)


def _in_braces(split: str) -> str:
    """Return a subset's name as it stands there: `{XL}`."""
    return "{" + split.strip("{}").upper() + "}"


def _recordings(file: Path) -> Any:
    return orjson.loads(file.read_bytes())["audios"]


@lru_cache(maxsize=1)
def _subsets(file: str) -> frozenset[str]:
    recordings = _recordings(Path(file))
    parts = (part.get("subsets", each.get("subsets", ())) for each in recordings for part in each["segments"])
    return frozenset(name for part in parts for name in part)


# ---- LJSpeech and Kaldi ----


def ljspeech_files(path: Path, split: str | None) -> list[Path]:
    """Return the table of LJSpeech; none for another folder, and no split of it."""
    table = path / "metadata.csv"
    return [table] if split is None and is_ljspeech(table) else []


def is_ljspeech(table: Path) -> bool:
    """Whether a table is LJSpeech's."""
    if not table.is_file() or not (table.parent / "wavs").is_dir():
        return False
    with table.open(encoding="utf-8-sig", errors="replace") as text:
        return text.readline(1 << 16).count("|") >= 1


def ljspeech(base: Path, files: list[Path], split: str | None) -> Iterator[Row | str]:
    """Yield the rows of LJSpeech: the text as it was written, beside it as it is spoken."""
    for number, line in enumerate(_lines(files[0]), 1):
        name, *texts = line.rstrip("\r").split("|")
        if len(texts) not in (1, 2):
            yield f"line {number} of {files[0].name}: {len(texts) + 1} fields, not 3"
            continue
        sound = f"wavs/{name}" if name.endswith(".wav") else f"wavs/{name}.wav"
        yield {"id": name, "audio": sound, "text": texts[0], **({"normalized": texts[1]} if len(texts) > 1 else {})}


def kaldi_files(path: Path, split: str | None) -> list[Path]:
    """Return the lists of a data folder of Kaldi; none for another."""
    below = path / split if split else path
    needed, more = [below / "wav.scp", below / "text"], below / "segments"
    return [*needed, *([more] if more.is_file() else [])] if all(file.is_file() for file in needed) else []


def kaldi_parts(path: Path) -> list[str]:
    """Return the data folders in a folder."""
    return [each.parent.name for each in sorted(path.glob("*/wav.scp")) if kaldi_files(path, each.parent.name)]


def kaldi(base: Path, files: list[Path], split: str | None) -> Iterator[Row | str]:
    """Yield the utterances of Kaldi's `text`, as parts of recordings where there are segments."""
    lists = {file.name: dict(_named(line) for line in _lines(file)) for file in files}
    for name, text in lists["text"].items():
        recording, times = name, {}
        if "segments" in lists:
            recording, *numbers = lists["segments"].get(name, "").split() or [""]
            if len(numbers) != 2:
                yield f"{name}: not in segments"
                continue
            times = dict(zip(("start", "end"), map(float, numbers), strict=True))
        place = lists["wav.scp"].get(recording, "")
        if not place or place.endswith("|"):
            yield f"{name}: {'its sound is what a command writes' if place else 'not in wav.scp'}"
            continue
        if not (base / place).exists():  # Kaldi starts where a recipe ran: not known, the list's folder is next
            place = str(files[0].parent / place)
        yield {"id": name, "audio": place, **times, "text": text}


def _named(line: str) -> tuple[str, str]:
    name, _, rest = line.strip().partition(" ")
    return name, rest.strip()
