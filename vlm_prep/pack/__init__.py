"""Tokenized documents → packs: which documents share a sequence, and at which positions.

    bins.py       exact best-fit-decreasing over document lengths, global over a store
    capacities.py the same with several capacities: tokens, patches, media, documents, audio
    mixed_bins.py how documents that take more than tokens are laid
    alike.py      documents that are nearly alike, planned as one
    lower_bounds.py  how many bins there are at least
    order_by.py   rows sorted by several keys
    epochs.py     several epochs in one plan, and how often each has a row
    units.py      rows that are packed as one, and packs in the order of the source
    mix_file.py   which rows of which stores, as a file
    mix_filter.py expressions over the columns of a store
    mix_rows.py   a mix resolved to row numbers
    similar_pictures.py  rows with a picture nearly like an earlier one's
    demands.py    what each row of a store asks of a pack
    cost.py       what a row costs in training
    lockstep.py   packs to steps: the same kinds of media and near-equal cost on all ranks
    even_out.py   documents of a step change places until its packs cost the same
    pack_plan.py  the packs of a store, by rank
    positions.py  position ids per document: mRoPE for the Qwen-VL families, a plain range for the others
    omni.py       the same for Qwen-Omni, whose videos carry sound
    model_rule.py the same by a model's own function, without its weights
    choose_rule.py which of these a store's model has, and whether it can be given packs
    assemble.py   documents → one pack's row
    pack_source.py  what is packed, and what the packed store says of it
    pack_job.py   what a worker does with a range of packs
    pack_run.py   a whole store into packs

Documents keep their boundaries inside a pack, and positions restart at each document, so everything here is
computed per document, before packing, and is only concatenated afterwards.
"""

from vlm_prep.core.callable_package import make_callable

make_callable(__name__, "pack_run", "pack")
