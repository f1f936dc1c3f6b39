"""What all others import: the nouns, the settings, what can go wrong, and what is left on disk.

records.py           Sample, Encoded and what they are made of
stored_media.py      a media as a shard holds it
processor_record.py  what a manifest says of a processor
errors.py            what can go wrong, and the reasons of rejects

fields.py            what a setting is
settings.py          the settings of a run; those of parts of it: media_settings.py, label_convention.py,
                     length_settings.py, box_settings.py, pack_settings.py
run_settings.py      where and how it runs
run_yaml.py          settings as a file
yaml_text.py         YAML of others, counted before it is made
stored_settings.py   settings that a store says
named_sources.py     sources that lie at no path

fingerprint.py       digests of inputs, settings and outputs
sides.py             sides of a split by a stable hash
atomic_files.py      files that are absent or whole
regular_files.py     files that are opened because a row names them
tar_members.py       the members of a tar, forward only
remote.py            files on object stores
made_here.py         whether a store was made by this user
media_places.py      where media stores lie that came along with a store

typed_json.py        JSON of others, compared with declared types
row_json.py          a row's text → values, exactly
plain_text.py        texts of libraries
visible.py           text of data, safe to show
scratch.py           memory that is used again
bounds.py            limits of time and memory for what runs or unpacks before a worker has a row
own_process.py       what is set for a whole process
callable_package.py  packages that are functions, too
"""
