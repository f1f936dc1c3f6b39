"""Sample → Encoded: the main job.

    template.py   the chat template: rendering, marks that say where each text landed
    facts.py      what a template supports and how it writes turns, found out with small conversations
    marks.py      characters around texts that show where a template put them
    turns.py      where each assistant turn stands, and what of it is what
    spans.py      which characters of the rendered text are trained, with which weight
    documents.py  one document of a row, or several where the template rewrites its history
    masks.py      from characters to tokens
    encode.py     text → ids with byte offsets (gigatoken where proven identical, else tokenizers)
    fit.py        a row in the form that the template takes
    tools.py      tool schemas and calls as text, for templates that do not know them
    encoder.py    one sample through all of it: render, encode, expand, label, cut to length
    second.py     trained spans found a second way
    oracle.py     the real processor on the real media, and the comparison
    verify.py     which rows are compared, and the proof for the manifest
    run.py        a whole source into a store
"""
