"""Tokenized documents → packs: which documents share a sequence, and at which positions.

    bins        exact best-fit-decreasing over document lengths, global over a store
    positions   position ids per document: mRoPE for the Qwen-VL families, a plain range for the others

Documents keep their boundaries inside a pack, and positions restart at each document, so everything here is
computed per document, before packing, and is only concatenated afterwards.
"""
