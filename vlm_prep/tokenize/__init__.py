"""Sample → Encoded: the main job.

    template.py   the chat template: what it supports, rendering, marks that say where each text landed
    marks.py      characters around texts that show where a template put them
    spans.py      which characters of the rendered text are trained
    encode.py     text → ids with byte offsets (gigatoken where proven identical, else tokenizers)
    tools.py      tool schemas and calls as text, for templates that do not know them
    encoder.py    one sample through all of it: render, encode, expand, label, cut to length
    oracle.py     the real processor on the real media, and the comparison
    verify.py     which rows are compared, and the proof for the manifest
    run.py        a whole source into a store
"""
