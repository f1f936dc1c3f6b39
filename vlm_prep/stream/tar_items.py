"""From a sample of a tar (`pack --format webdataset`) to an item that collaters take, for webdataset's own loader.

    items = TarItems("out/tars")
    rows = webdataset.WebDataset(items.urls(rank), nodesplitter=None, shardshuffle=False).map(items)
    loader = DataLoader(rows, batch_size=1, num_workers=2, collate_fn=items.collate(model=model))

The item is the one that ShardDataset makes of the same pack in an Arrow shard, tensor by tensor.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import orjson
from numpy.typing import NDArray

from vlm_prep.core.errors import StoreError
from vlm_prep.pack.pack_plan import rank_split
from vlm_prep.processors.backbone import Backbone
from vlm_prep.processors.kinds_apart import kinds_of_documents
from vlm_prep.shards.manifest import read_manifest
from vlm_prep.stream.collate import PackedCollate, PackedOptions
from vlm_prep.stream.restore import tensor_makers

_MEDIA_FIELD = re.compile(r"media\.\d+\.")
_NPY = b"\x93NUMPY"
_KINDS = (("n_images", "image"), ("n_videos", "video"), ("n_audios", "audio"))


class TarItems:
    """Decodes samples as webdataset yields them: raw, or with its own decoders of .npy and .json.

    Args:
        store: the folder of the tars, whose manifest says how pixels are made.
        pixels: make pixel tensors of media; False leaves them out.
        trust_remote_code: run the Python code of a processor that comes with some.

    Raises:
        StoreError: it is no finished store of tars.
    """

    columns = ("input_ids", "labels", "position_ids", "seq_lens")

    def __init__(self, store: str | Path, *, pixels: bool = True, trust_remote_code: bool = False) -> None:
        self.manifest = read_manifest(store, stage="pack")
        if self.manifest.extra.get("format") != "webdataset":
            raise StoreError(f"{store} holds Arrow shards", "read them with ShardDataset")
        found = self.manifest.processor.get("backbone")
        backbone = Backbone.from_json(found) if found is not None else Backbone()
        self.apart = backbone if backbone.has_rows_apart else None
        self._store, self._pixels, self._trust = store, pixels, trust_remote_code
        self._open()

    def _open(self) -> None:
        self._make, _ = tensor_makers(self.manifest.processor, self._pixels, trust_remote_code=self._trust)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_make"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def urls(self, rank: int | None = None) -> list[str]:
        """Return the tars of a planned rank, in their order: that rank's packs are in step with those of the others.

        Without a rank the tars of all of them in turn, of which webdataset's `split_by_node` gives each of as many
        nodes its own.

        Raises:
            StoreError: the packs were planned for fewer ranks; or, of all, ranks have so many tars that they do not
                come in turn.
        """
        ranks = int(self.manifest.config["world_size"])
        if rank is None:
            each = [self.urls(number) for number in range(ranks)]
            counts = [len(tars) for tars in each]
            if counts != sorted(counts, reverse=True) or counts[0] - counts[-1] > 1:
                raise StoreError(
                    f"{self._store}: ranks have {', '.join(map(str, counts))} tars, which do not come in turn",
                    "give each rank its own, urls(rank), with nodesplitter=None",
                )
            return [tar for step in zip_longest(*each) for tar in step if tar is not None]
        if not 0 <= rank < ranks:
            raise StoreError(f"{self._store}: packs for {ranks} ranks, none for rank {rank}", "pack for as many ranks")
        split = rank_split(rank)
        return [str(Path(self._store) / split / info.name) for info in self.manifest.splits.get(split, ())]

    @property
    def steps(self) -> int:
        """Packs that each rank has: where a rank has one more, an epoch ends before it."""
        return int(min(self.manifest.totals["packs_by_rank"]))

    def collate(self, **options: Unpack[PackedOptions]) -> PackedCollate:
        """Return the collater of the store, see `PackedCollate.for_store`."""
        return PackedCollate.for_store(self, **options)  # type: ignore[arg-type]

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item of a sample.

        Raises:
            StoreError: fields are missing, or the media do not give the tensors that the ids were made for.
        """
        where = f"{self._store}: pack {sample.get('__key__')}"
        try:
            about = sample["json"]
            about = orjson.loads(about) if isinstance(about, bytes) else about
            row = {name[: -len(".npy")]: _array(value) for name, value in sample.items() if name.endswith(".npy")}
            media = [_with_bytes(each, sample, first) for each, first in _numbered(orjson.loads(about["media"]))]
            item: dict[str, Any] = {
                name: value.reshape(-1, 3) if name.endswith("_thw") else value for name, value in row.items()
            }
            item |= {"sample_ids": about["sample_ids"], "input_ids": row["input_ids"]}
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{where}: {type(error).__name__}: {error}", "is it a sample of these tars?") from error
        counts = item.pop("media_counts", None)
        if self.apart is not None and counts is not None:
            item["document_kinds"] = kinds_of_documents(media, counts)
        kinds = [each["kind"] for each in media]
        item |= {name: kinds.count(kind) for name, kind in _KINDS}
        made = dict(self._make(media, counts) or {}) if self._make is not None and media else {}
        for name in made.keys() & item.keys():
            if not np.array_equal(made.pop(name), item[name]):
                raise StoreError(f"{where}: its media give another {name} than the store says", "the tar was changed")
        return {**item, **made}


def _array(value: Any) -> NDArray[Any]:
    return np.load(io.BytesIO(value), allow_pickle=False) if isinstance(value, bytes) else np.asarray(value)


def _numbered(media: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Each media with the number of its first file among the pack's."""
    found, number = [], 0
    for each in media:
        found.append((each, number))
        number += len(each["files"]) + len(each.get("tensors", ()))
    return found


def _with_bytes(media: dict[str, Any], sample: Mapping[str, Any], first: int) -> dict[str, Any]:
    """A media as a shard holds it, its bytes out of `media.bin`, or out of fields of their own."""
    joined = sample.get("media.bin")
    alone = (
        {int(name.split(".")[1]): value for name, value in sample.items() if _MEDIA_FIELD.match(name)}
        if joined is None
        else {}
    )

    def content(place: Mapping[str, Any], number: int) -> bytes:
        data = alone[number] if joined is None else joined[place["offset"] : place["offset"] + place["size"]]
        if isinstance(data, np.ndarray) or (joined is None and isinstance(data, bytes) and data.startswith(_NPY)):
            data = _array(data).tobytes()
        if not isinstance(data, bytes) or len(data) != place["size"]:
            raise ValueError(f"media {number} is not its file's bytes: leave media fields undecoded")
        return data

    places = enumerate(media["files"], first)
    files = [{"uri": f["uri"], "digest": f["digest"], "bytes": content(f, n) or None} for n, f in places]
    tensors = [
        {**each, "data": np.frombuffer(content(each, number), np.uint8)}
        for number, each in enumerate(media.get("tensors", ()), first + len(files))
    ]
    return {**media, "files": files, "tensors": tensors or None, "same_as": None}
