"""Datasets by name: how the well-known ones are read, one YAML file each.

    preset    reads them: `preset:NAME[=path]`, what `vlm-prep presets` lists, and `preset` in a meta JSON

A file says what the set is (`about`), where it is on the hub (`hub`), what its rows have (`expects`), and the settings
that read it (`options`, the keys of a meta JSON's entry). One with `sets` is several datasets, and `mix` says how they
are mixed. Nothing of a preset is known to any code: what it says could be written in a meta JSON as well.
"""
