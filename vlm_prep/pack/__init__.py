"""Tokenized documents → packs: which documents share a sequence, and at which positions.

    bins.py       exact best-fit-decreasing over document lengths, global over a store
    pack_plan.py  the packs of a store, by rank
    positions.py  position ids per document: mRoPE for the Qwen-VL families, a plain range for the others
    omni.py       the same for Qwen-Omni, whose videos carry sound
    assemble.py   documents → one pack's row
    pack_job.py   what a worker does with a range of packs
    pack_run.py   a whole store into packs

Documents keep their boundaries inside a pack, and positions restart at each document, so everything here is
computed per document, before packing, and is only concatenated afterwards.
"""
