"""Sample → Encoded: the main job.

tokenize_run.py  a whole source into a store
merge_run.py     several stores that were made alike into one
tokenize_job.py  what a worker does with a range of rows
run_accounts.py  from the records of tasks to the manifest, and the top-up of the proof
row_facts.py     what is told of each row, for later updates
update_plan.py   what an update of a store would do
update_job.py    rows that are copied, among rows that are done
update_layers.py what other settings mean for a store's rows
known_media.py   the media of rows as the store that is updated knows them
update_staging.py  its new files until they replace the old ones
update_run.py    a store brought up to its source
bounded_rows.py  rows that are done in the command's own process, within limits
recipe.py        what it needs beside rows, made once and inherited by all workers
before_fork.py   what the forkserver imports and makes
task_output.py   the shards and counts of a range
beginnings.py    beginnings of a conversation, and their media
probe_rows.py    the media of a row: headers, and the bytes that are kept
encoder.py       one sample through all of it: render, encode, expand, label, cut to length
token_hook.py    a function of the user behind tokenizing, judged
chat/            the chat template: a row rendered, and where each of its texts landed
text.py          text → ids with byte offsets (gigatoken where proven identical, else tokenizers)
box_names.py     what boxes and points are of, as the text around them says
boxes.py         boxes and points, read by a declared rule and written as the models give them
rescue.py        rows that are too long made shorter, step by step
rescue_measures.py  what its steps do
drafts.py        a sample after encoding, before its length is judged
cut_rows.py      rows cut to a number of tokens inside a turn
overlong_audio.py  clips that are longer than the processor takes
coordinates.py   the coordinates of a text, a type for each
placeholders.py  placeholders → the tokens of their media
labels/          which tokens are trained
verify/          the comparison with the real processor
"""

from vlm_prep.core.callable_package import make_callable

make_callable(__name__, "tokenize_run", "tokenize")
