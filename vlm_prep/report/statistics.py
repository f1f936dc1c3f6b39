"""Numbers of a store: rows, tokens, lengths, media, rejects, fill, and the proof.

Counts come from the manifest; length quantiles are read from list offsets, so nothing is decoded and a store of
a million rows takes well under a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_prep.core.records import characters, counts_of
from vlm_prep.core.remote import is_remote
from vlm_prep.ingest.formats.noticed import NOTES
from vlm_prep.ingest.source import sample_from_row
from vlm_prep.ingest.unread_keys import UNREAD, unread_lines
from vlm_prep.report.pack_text import plan_lines
from vlm_prep.shards.earlier import EARLIER
from vlm_prep.shards.manifest import GATHERED, read_manifest
from vlm_prep.shards.object_store import StorePath
from vlm_prep.shards.reader import Store

_NOTES = {
    "media_of_stores": "with media read from a media store",
    "media_stores_outdated": "with a file that has another size than in the media store: the file itself was read",
    "paths_read_otherwise": "with media found under another reading of their path (%20, backslashes, case, ...)",
    "media_outside": "with media outside of their data file's folder and media folder",
    "first_frames": "with a picture of several frames, of which the first was taken (--multi-frame)",
    "rows_asked_whole": "made by asking the whole processor for each",
    "changed_by_token_hook": "of which the token_hook gave others than it got",
    "cut_inside": "cut inside a turn to the most tokens of a row",
    "audio_cut": "with a clip cut to what the processor takes",
    "audio_split": "with a clip split into several of what the processor takes",
    "pictures_cropped": "with a picture of which the processor crops the edges",
    "frames_capped": "with a video longer than the processor's most frames at its rate: fewer a second are taken",
    "variable_frame_rate": "with a video whose frames are not shown evenly",
    "pictures_with_alpha": "with a picture that may be transparent by its header (`check_media`: is), laid on white",
    "mirrored_videos": "with a video that asks to be shown mirrored: its frames are not, as transformers reads them",
    "sound_starts_elsewhere": "with a video whose sound does not start with its pictures (`sound_offset`)",
    "rate_as_text": "with a video whose rate is a number as text",
    "frames_as_video": "with a flat list of frames read as one video",
    "empty_answers": "with an answer that says nothing, of which the end token alone is trained (`empty_answers`)",
    "boxes": "with boxes or points, written as the models give them",
    "boxes_clipped": "with boxes or points outside of their picture, clipped to it",
    "rescued_pixels": "rescued with pictures or frames scaled down (`overlong=rescue`)",
    "rescued_frames": "rescued with fewer frames of their videos",
    "rescued_documents": "rescued as several documents",
    "rescued_turns": "rescued without some of their turns",
    "tools_as_text": "with tools or tool calls written as text, since the chat template does not know them",
    "developer_as_system": "with developer turns written as system turns, since the chat template does not know them",
}
_HELD = ("images_per_row", "seconds_per_row", "characters_per_row")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def collect(folder: str | StorePath) -> dict[str, Any]:
    """Return a store's statistics, JSON-ready; of one on an object store what its manifest says, without quantiles.

    Examples:
        >>> stats = vp.stats(folder / "tok")
        >>> stats["stage"], stats["totals"]["rows_written"]
        ('tokenize', 7)

    Raises:
        StoreError: unfinished, damaged or no store.
    """
    store = Store(folder, manifest=read_manifest(folder))
    manifest = store.manifest
    shards = [shard.info for shard in store.shards]
    stats: dict[str, Any] = {
        "folder": str(folder),
        "stage": manifest.stage,
        "fingerprint": manifest.fingerprint,
        "totals": manifest.totals,
        "shards": len(shards),
        "bytes": sum(info.bytes for info in shards),
        "config": manifest.config,
        "proof": manifest.proof,
    }
    if manifest.processor:
        stats["processor"] = {
            "family": manifest.processor["family"],
            "level": manifest.processor["level"],
            **manifest.processor["identity"],
        }
        stats["payload"] = _encodings(manifest.processor.get("payload"))
    # the lengths of tars would have to be unpacked, those of an object store fetched
    shown = shards and manifest.extra.get("format") != "webdataset" and isinstance(store.folder, Path)
    columns = store.shards[0].schema.names if shown else []
    if "input_ids" in columns:
        stats["length"] = _quantiles(store.lengths())
    if "conversation" in columns and "input_ids" not in columns:
        stats |= _held_by_rows(store)
    if "seq_lens" in columns:
        stats["documents_per_pack"] = _quantiles(_list_lengths(store, "seq_lens"))
    if "plan" in manifest.extra:
        stats["plan"] = manifest.extra["plan"]
    if "certificate" in manifest.extra:
        stats["certificate"] = manifest.extra["certificate"]
    return stats


def _held_by_rows(store: Store) -> dict[str, Any]:
    """Return the quantiles over an ingested store's rows of what each holds, of what there is any."""
    held: dict[str, list[float]] = {name: [] for name in _HELD}
    for row in store.rows():
        sample = sample_from_row(row)
        counts = counts_of(sample.media)
        seconds = (counts["audio_ms"] + counts["video_ms"]) / 1000
        for name, value in zip(_HELD, (counts["images"], seconds, characters(sample)), strict=True):
            held[name].append(value)
    return {name: _quantiles(np.array(values)) for name, values in held.items() if any(values)}


def _encodings(payload: dict[str, Any] | None) -> dict[str, str] | None:
    """Return how each kind of media is stored as tensors; kind "media" is all of a processor that is needed whole."""
    if payload is None:
        return None
    encodings = {
        kind or "media": "as it is" if form["route"] == "exact" else "uint8" for kind, form in payload["forms"].items()
    }
    return {**encodings, **({"audio": payload["audio"]} if "audio" in encodings else {})}


def _list_lengths(store: Store, name: str) -> NDArray[np.int64]:
    chunks = [chunk.value_lengths().to_numpy() for shard in store.shards for chunk in shard.column(name).chunks]
    return np.concatenate(chunks).astype(np.int64)


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, QUANTILES)
    named = {f"p{int(q * 100)}": float(value) for q, value in zip(QUANTILES, found, strict=True)}
    return {**named, "mean": round(float(values.mean()), 2)}


def render(stats: dict[str, Any]) -> str:
    """Return the statistics as text for a terminal."""
    totals = stats["totals"]
    lines = [f"{stats['folder']}: output of {stats['stage']}, {stats['shards']} shard(s), {byte_words(stats['bytes'])}"]
    what = {"pack": "documents", GATHERED: "media"}.get(stats["stage"], "rows")
    lines.append(
        f"  {what:<11} {totals['rows_in']:,} in = {totals['rows_written']:,} written "
        f"+ {totals['rows_rejected']:,} rejected{_reasons(totals.get('rejects', {}))}"
    )
    lines += [
        f"  before      {each['stage']}: {each['rows_in']:,} in = {each['rows_written']:,} written "
        f"+ {each['rows_rejected']:,} rejected{_reasons(each['rejects'])}"
        for each in totals.get(EARLIER, ())
    ]
    if stats["stage"] == GATHERED:
        held = byte_words(totals.get("media_bytes", 0))
        lines.append(f"  contents    {totals.get('contents', 0):,} of {totals.get('files', 0):,} files, {held}")
    if totals.get("extra_documents"):
        documents = totals["rows_written"] + totals["extra_documents"]
        lines.append(f"  documents   {documents:,}: some rows gave several")
    if totals.get("rescued_rows"):
        lines.append(
            f"  rescued     {totals['rescued_rows']:,} rows: of {totals['rescued_from_tokens']:,} tokens "
            f"{totals['rescued_to_tokens']:,} are left"
        )
    for name, what in (_NOTES | NOTES).items():
        if totals.get(name):
            lines.append(f"  note        {totals[name]:,} rows {what}")
    if "packs" in totals:
        ranks = totals["packs_by_rank"]
        lines.append(f"  packs       {totals['packs']:,} for {len(ranks)} rank(s), fill {totals['fill']:.2%}")
        lines += plan_lines(stats.get("plan", {}))
    if "tokens" in totals:
        trained = f", {totals['trained_tokens']:,} trained" if "trained_tokens" in totals else ""
        lines.append(f"  tokens      {_tokens(totals)}{trained}")
    if totals.get("structural_tokens"):
        lines.append(f"  convention  {totals['structural_tokens']:,} of the trained would not be by our own convention")
    if totals.get("audios"):
        lines.append(f"  audio       {totals['audios']:,} files{_duration(totals.get('audio_seconds'))}")
    if totals.get("videos"):
        lines.append(f"  video       {totals['videos']:,} files{_duration(totals.get('video_seconds'))}")
    if "characters" in totals:
        lines.append(f"  rows hold   {'; '.join(_held(totals))}")
    if "kinds" in totals:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in totals["kinds"].items())
        media = f"{totals.get('images', 0):,} images, {totals.get('videos', 0):,} videos"
        lines.append(f"  media       {media} ({kinds})")
    lines += _payload(stats, totals)
    if is_remote(stats["folder"]):
        lines.append("  length      not read: the shards are on an object store (`vlm-prep pull` it to see)")
    lines += [
        f"  {name.replace('_per_', '/'):<11} {_spread(stats[name])}"
        for name in ("length", "documents_per_pack", *_HELD)
        if stats.get(name)
    ]
    lines += _datasets(totals.get("datasets", {}))
    lines += [f"  unread      {line}" for line in unread_lines(totals.get(UNREAD, {}))]
    lines += _identity(stats)
    return "\n".join(lines)


def _payload(stats: dict[str, Any], totals: dict[str, Any]) -> list[str]:
    """What is stored of media, where that is more than their files."""
    lines = []
    payload = stats.get("payload")
    if payload:
        named = ", ".join(f"{kind} {form}" for kind, form in payload.items())
        exact = f"; {totals['media_exact']:,} media not in uint8" if totals.get("media_exact") else ""
        lines.append(f"  pixels      stored: {named}{exact}")
    if totals.get("media_shared"):
        saved = byte_words(totals["media_shared_bytes"])
        lines.append(
            f"  shared      {totals['media_shared']:,} media are stored with an earlier row alone, {saved} less; "
            "libraries other than vlm-prep do not follow that (see the store's README.md)"
        )
    if totals.get("media_repeated"):
        spent = byte_words(totals["media_repeated_bytes"])
        lines.append(
            f"  repeated    {totals['media_repeated']:,} media are stored again with later rows, {spent}; "
            "`--share-media shard` stores each once"
        )
    return lines


def _reasons(reasons: dict[str, int]) -> str:
    return f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons.items())})" if reasons else ""


def _duration(seconds: float | None) -> str:
    """Seconds, or hours from the first on."""
    if seconds is None:
        return ""
    return f", {seconds / 3600:,.1f} h" if seconds >= 3600 else f", {seconds:,.1f} s"


def _spread(quantiles: dict[str, float]) -> str:
    named = {"p0": "min", "p50": "median", "p95": "p95", "p100": "max", "mean": "mean"}
    numbers = ((label, quantiles[key]) for key, label in named.items())
    return ", ".join(f"{label} {value:,.0f}" if value >= 100 else f"{label} {value:.3g}" for label, value in numbers)


def _datasets(datasets: dict[str, dict[str, int]]) -> list[str]:
    if not datasets:
        return []
    width = max(len(name) for name in datasets)
    return ["  datasets"] + [
        f"    {name:<{width}}  {counts['rows_written']:,} of {counts['rows_in']:,} rows, " + "; ".join(_held(counts))
        for name, counts in datasets.items()
    ]


def _held(counts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the rows of a dataset hold: media with their times, and characters or tokens."""
    for kind, seconds in (("images", ""), ("videos", "video_seconds"), ("audios", "audio_seconds")):
        if counts.get(kind):
            yield f"{counts[kind]:,} {kind}{_duration(counts.get(seconds))}"
    yield f"{counts['characters']:,} characters" if "characters" in counts else f"{_tokens(counts)} tokens"


def _tokens(counts: Mapping[str, Any]) -> str:
    """Tokens of text and of media apart, where there are both."""
    tokens, media = counts.get("tokens", 0), counts.get("media_tokens", 0)
    return f"{tokens:,} ({tokens - media:,} text, {media:,} media)" if media else f"{tokens:,}"


def _identity(stats: dict[str, Any]) -> list[str]:
    lines = []
    if "processor" in stats:
        processor = stats["processor"]
        lines.append(
            f"  processor   {processor['class']} ({processor['family']}, {processor['level']} level), "
            f"transformers {processor['transformers']}"
        )
    proof = stats["proof"]
    if proof and proof["rows"]:
        rows = ", ".join(f"{count} of {proof['of'].get(kind, count)} {kind}" for kind, count in proof["rows"].items())
        lines.append(f"  proof       {rows} rows equal to {proof['against']}: {', '.join(proof['compared'])}")
    if proof and "token_hook" in proof:
        hook = proof["token_hook"]
        changed = f"{hook['rows_changed']:,} rows changed by token_hook {hook['name']}"
        lines.append(f"  proof       {changed}, compared behind it; `vlm-prep show` says of each row whether it was")
    if proof and "raised_at_pack" in proof:
        raised = proof["raised_at_pack"]["documents"]
        lines.append(f"  proof       pixels of {raised:,} documents, made when packing, equal to the processor's")
    if proof and not proof["rows"] and stats["totals"]["rows_written"]:
        lines.append("  proof       none: this store was made with --verify-fraction 0")
    elif proof and not proof["rows"]:
        lines.append("  proof       none: the store has no rows to compare")
    if "certificate" in stats:
        lines += [f"  {line}" for line in packs_certificate_lines(stats["certificate"])]
    return lines


def packs_certificate_lines(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a packed store's certificate, as its manifest holds it."""
    passed = "passed" if certificate["passed"] else "NOT PASSED"
    yield (
        f"certificate {passed}: tiny {certificate['model']}, {certificate['packs']} packs beside their "
        f"{certificate['documents']} documents alone ({certificate['tokens']:,} tokens)"
    )
    refused = [each for each in certificate["findings"] if each["verdict"] == "refused"]
    for each in certificate["findings"]:
        if each["verdict"] != "refused":
            numbers = f"logits {each['logits']:.0e}, loss {each['loss']:.0e} " if each["logits"] is not None else ""
            yield f"  {each['form']:<13} {each['attention']:<18} {each['verdict']:<10} {numbers}{each['why']}".rstrip()
    if refused:
        yield f"  refused       {', '.join(dict.fromkeys(each['form'] for each in refused))}"
    for note in certificate["notes"]:
        yield f"  note          {note}"


def byte_words(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
