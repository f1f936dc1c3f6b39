"""Files that ship with the package: a small real processor and a handful of demo conversations.

They are here so that every command can be tried right after installation, offline, and so that tests have a
processor whose every file is known. Elsewhere a processor named ``builtin:NAME`` means
``builtin_processor("NAME")``.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def builtin_processor(name: str) -> Path:
    """The folder of the built-in processor ``name``, to be given to ``AutoProcessor.from_pretrained``.

    Raises ``ValueError`` with the known names when there is none of that name.
    """
    # Compared with the listing rather than joined to the path, so that "../data" finds nothing.
    folders = {path.name: path for path in (_HERE / "processors").iterdir() if path.is_dir()}
    if name not in folders:
        raise ValueError(f"no built-in processor {name!r}; known: {', '.join(sorted(folders))}")
    return folders[name]


def builtin_data() -> Path:
    """The ``meta.json`` that describes the demo datasets; the paths in it are relative to its folder."""
    return _HERE / "data" / "meta.json"
