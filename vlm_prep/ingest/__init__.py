"""Source rows → Sample: which data files there are, where their rows lie, and what a row says.

Ingest opens data files (JSON, JSON lines, Parquet, Arrow) and nothing else: no media file, no processor. The order
to read it in:

    spec      DatasetSpec: one dataset's file, format, columns and tags
    names, sniff  what columns and tags are called; how rows stand in a text file
    json_scan     where the rows of other JSON than JSON lines are
    entry     what may be said of one dataset
    meta_file  the meta JSON, told from data
    presets/  well-known datasets by name
    derived/  tars, folders, databases and other tools' descriptions as rows
    hub_sets, hub_cache, splits  datasets of the hub, with and without a network; which files and rows a split is
    gather/   media files by content in shards, each once
    format_packages  formats of rows that installed packages add
    row_hook  a function of the user between a row and its reading
    mock_rows  rows that are made up
    meta      load_source: a meta JSON, a data file or a folder → [DatasetSpec], or an InputError that says what to fix
    detect    what the head of a data file tells: its kind, format, conversation column and tags
    index     build_index: the byte range and line of every row of JSON, found without parsing the rows
    table_files    the same of Parquet and Arrow files: which files a folder's split has, and how many rows
    metadata_folders  folders of media files with a table that names them
    embedded  media that lie inside a row (bytes, data: URLs), marked with the uri that reads them again
    sampling  pick_rows: sample_ratio → row numbers, in order
    mapping/  what the columns of any table are, declared
    formats/  to_sample: one parsed row → Sample, or a Reject
    kept_columns    what travels with a row: its own id, and columns that were asked for
    row_digests     a digest of each row, for updates
    row_source      RowSource: all of it for one dataset; picks i..j → Sample | Rejected, one for each pick
    interleave, raw_samples  datasets mixed by shares; the rows of all data sets by number
    first_rows      what the first rows give before a run, and whether it should start at all
    unread_keys     keys that nobody reads, counted
    look          a look at data of which nothing is known yet
    some_samples  some of a source's samples, for a look at it
    source, ingest_run  open_samples: all data sets of a SOURCE; ingest: into a store

A fault of the whole input (a missing file, a misspelt column) is an InputError and is found before the first
row is read. A fault of one row is a Rejected with the line it stands on, and never touches the other rows.
"""

from vlm_prep.core.callable_package import make_callable
from vlm_prep.ingest.meta import load_source
from vlm_prep.ingest.row_source import RowSource
from vlm_prep.ingest.spec import DatasetSpec

__all__ = ["DatasetSpec", "RowSource", "load_source"]

make_callable(__name__, "ingest_run", "ingest")
