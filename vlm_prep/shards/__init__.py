"""Shards on disk: what a row looks like, how shards are written, named, described and read.

schema.py    the Arrow columns of each kind of store
heads.py     digests of the parts of a shard that tell Arrow where to look
unpacked.py  what a compressed record batch becomes, looked at before it is unpacked
store_names.py  the names that files of a store have, and no others
shard_info.py  what the manifest says of a shard
writer.py    rows → record batches → one shard file, renamed into place only when whole
tar.py       the same as tars for webdataset
shared.py    media that several rows have, stored once
media_kinds.py  which kinds of media each row has
columns.py   columns of record batches as numpy views, made when asked for
manifest.py  manifest.json: the last file written; a folder without it is unfinished
manifest_records.py  what it says besides its shards
manifest_rules.py  what must hold of a manifest before it is used
layout.py    the files around the shards that make the folder open with `datasets`
object_store.py  where a store is: a folder or an object store
cache.py     shards of object stores in a local folder, bounded by bytes
code_place.py  whose code makes a store's tensors
transfer.py  finished stores to an object store and back
elsewhere.py  media that are named and not held: what a copy of a store lacks
mapped.py    how much of a store is held ready in a process
earlier.py   what was rejected by the stages before
joined.py    several stores read as one
row_texts.py  columns that are JSON texts
row_ledger.py   what each row of a store was made of, for updates
store_check.py   is a folder what its manifest says
reader.py    memory-mapped rows as numpy views
"""
