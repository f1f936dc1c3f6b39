"""The `vlm-prep` command: thin Typer commands that parse, call the library and show the result.

A command is in the file of its name, but for `run` (job.py), `mix` (mixes.py), `push` and `pull` (push_pull.py).
Beside them:

    main.py            the root: commands, and errors without a traceback
    flags.py           settings as options of a command; takes.py, typer_options.py, the two halves of it
    run_file.py        settings in a file
    options.py         what several commands do with their settings
    place.py           where a store goes; a stage that is ready to run
    store_reader.py    the tokenizer that writes a store's ids as text
    terminal.py        where all text leaves
    settings_table.py  docs/settings.md

Heavy imports (torch, transformers) happen inside commands, so that `--help` and `stats` answer at once.
"""
