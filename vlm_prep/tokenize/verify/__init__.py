"""The comparison with the real processor.

real_processor.py  the real processor on the real media, and what differs
raw_rows.py        what a raw row of a usual form says, read a second way
sanitizer.py       transformers' own way with control tokens of the data
second_labels.py   trained spans found a second way
shapes.py          rows in groups by what could matter: the first of each is compared before it is written
claimed.py         which worker compares which of them
asking.py          rows that the generic family makes otherwise, made by asking for the whole row
refusals.py        rows that the real processor cannot take, the same for any number of workers
choose.py          which rows are compared, and the proof for the manifest
store.py           every row of a finished store again
"""
