"""The `vlm-prep` command: thin Typer commands that parse, call the library and show the result.

Heavy imports (torch, transformers) happen inside commands, so that `--help` and `stats` answer at once.
"""
