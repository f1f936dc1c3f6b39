"""Which tokens are trained, found by structure.

turns.py      where each assistant turn stands, and what of it is what
conventions.py  which of the template's own tokens around a turn other trainers train
spans.py      which characters of the rendered text are trained, with which weight
answers.py    answers that say nothing, and media that the template leaves out
documents.py  one document of a row, or several where the template rewrites its history
masks.py      from characters to tokens
"""
