"""What a finished store holds, and what a run will make of a source, for people and as JSON.

statistics.py   a store's rows, tokens, lengths, rejects, fill and proof
token_runs.py   a row's tokens in runs: text, trained or not, and media
found_rows.py   any row of a store by number or id
row_text.py     everything known of it, for a terminal
differences.py  what differs between two stores
facts_text.py   what a dry run found
labels_text.py  rows as the model reads them, what is trained in colour
row_steps.py    how one row is read, step by step
pack_text.py    what the plan of packs came to
certificate_text.py  what a model needs of packs, and what its certificate found
audit.py        the same as counts, for CI
view/           a store as one page for the browser
plan/           what a run over a whole source will take, estimated from some of its rows
"""
