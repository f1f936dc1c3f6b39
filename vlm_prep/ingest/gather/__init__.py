"""Media files by content in shards, each once, for any number of stores.

media_groups.py  the files that ingested stores name, those with one digest together
gather_run.py    their contents into a media store
gather_free.py   what of a media store nothing refers to, and giving it back
"""
