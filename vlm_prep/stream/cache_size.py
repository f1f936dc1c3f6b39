"""Does a cache of shards hold what the order reads from at a time?

A shuffled epoch goes through rounds of SHARDS shards (`order`), and where one round passes to the next it reads from
both. A cache of two rounds fetches each shard once an epoch; one of a single round fetches a few a second time, where
rounds meet; with less every row may fetch its shard anew. Read in order, two shards are enough.
"""

from __future__ import annotations

import logging

from vlm_prep.core.errors import InputError
from vlm_prep.shards.cache import ShardCache
from vlm_prep.stream.stored_rows import Rows

_LOG = logging.getLogger(__name__)


def check_cache(rows: Rows, cache: ShardCache, world_size: int, *, shuffle: bool) -> None:
    """Refuse a cache that is too small for one round of the order, and warn of one too small for two.

    Args:
        rows: of the store; nothing is checked where all of it is in a local folder.
        cache: of its shards.
        world_size: of the run.
        shuffle: whether rows are read in random order.

    Raises:
        InputError: it is too small.
    """
    one, two = (rows.fetched(rounds, world_size, shuffle=shuffle) for rounds in (1, 2))
    has = f"cache_bytes {cache.bytes:,}: {'shuffled' if shuffle else 'in order'}, this store is read from shards of"
    if cache.bytes < one:
        raise InputError(
            f"{has} {one:,} bytes at a time: they would be fetched again and again",
            f"give cache_bytes={two}{', or shuffle=False' if shuffle else ''}",
        )
    if cache.bytes < two:
        _LOG.warning("%s up to %s bytes at a time: some are fetched more than once an epoch", has, f"{two:,}")
