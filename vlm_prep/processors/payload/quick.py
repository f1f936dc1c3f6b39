"""Pixels of media that a store holds as files (payloads `encoded` and `reference`), made in training.

What makes payload `pixels` makes them here: the picture decoded once, resized by the processor's own resize, cut into
patches in uint8 (`patches`), or the part called without its last arithmetic. The floats come of the bytes by the
processor's last arithmetic (`uint8`), where they are wanted. Whether that gives the processor's own tensors, bit by
bit, is found out with noise (`encodings`) in each process that reads, by the transformers that is installed there; a
part for which it does not is called as it is. Proofs come this way, too: what training will be given is compared with
what the whole processor makes of the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_prep.core.processor_record import ProcessorRecord
from vlm_prep.core.stored_media import StoredMedia
from vlm_prep.processors.payload.pixels import PixelMaker
from vlm_prep.processors.payload.stored import Stored

if TYPE_CHECKING:
    import torch

    from vlm_prep.processors.payload.encodings import Encoding
    from vlm_prep.processors.payload.patches import Patches

Parts = Mapping[str, "Sequence[torch.Tensor | Stored]"]


class QuickMaker(PixelMaker):
    """A `PixelMaker` for readers and for proofs."""

    def __init__(self, runtime: ProcessorRecord, *, whole: Any = None, trust_remote_code: bool = False) -> None:
        super().__init__(runtime, whole=whole, trust_remote_code=trust_remote_code)
        self._found: dict[str, tuple[Encoding, Patches | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_found": {}}

    def made(self, kind: str, structs: Sequence[StoredMedia]) -> Parts:
        """See `PixelMaker.made`."""
        if kind != "image":
            return super().made(kind, structs)
        encoding, patches = self._encoding(kind)
        if not encoding.alone or encoding.route not in ("patches", "bytes"):
            return super().made(kind, structs)
        made: dict[str, list[torch.Tensor | Stored]] = {}
        for struct in structs:
            found = self._of_patches(struct, patches) if patches is not None else self._of_bytes(struct)
            if found is None:
                return super().made(kind, structs)
            for name, array in found.items():
                made.setdefault(name, []).append(Stored(array, encoding.rules.get(name)))
        return made

    def _encoding(self, kind: str) -> tuple[Encoding, Patches | None]:
        # encodings and patches decode: training whose shards hold tensors needs no Pillow
        from vlm_prep.processors.payload.encodings import find_encoding
        from vlm_prep.processors.payload.patches import patches_for

        if kind not in self._found:
            import torch

            # the noise is large enough for threads, and a process forked from one that had some would wait for them
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                encoding = find_encoding(self, kind)
            finally:
                torch.set_num_threads(threads)
            self._found[kind] = encoding, patches_for(self, kind) if encoding.route == "patches" else None
        return self._found[kind]

    def _of_patches(self, struct: StoredMedia, patches: Patches) -> dict[str, np.ndarray[Any, Any]]:
        return patches.of_media(struct)

    def _of_bytes(self, struct: StoredMedia) -> dict[str, np.ndarray[Any, Any]] | None:
        """What the part makes of a picture without its last arithmetic; None if that is no bytes after all."""
        from vlm_prep.processors.payload.encodings import BYTES, as_bytes

        encoding, _ = self._found["image"]
        found = {}
        for name, tensor in self.call("image", [struct], **BYTES).items():
            rule = encoding.rules.get(name)
            small = tensor if rule is None else as_bytes(tensor)
            once = small if rule is None or small is None else rule.without_repeats(small)
            if once is None:
                return None
            found[name] = once.numpy()
        return found
