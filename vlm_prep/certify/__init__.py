"""The certificate: what a model computes on our batches is what it computes on the processor's own rows.

    conversations.py  the rows that are compared
    tiny_config.py    a model's config, made small with its kinds of layers
    tiny_model.py     a random model of it
    kernels.py        what the fast kernels of packs compute, on the CPU
    compare.py        rows alone, padded, packed: largest differences, form by form
    certificate.py    a processor and a model through all of it
    store_packs.py    the packs of a store, beside their documents alone

Equal tensors are not enough: a mask that a layer ignores, a state that runs on, types under a name that a model does
not read all train something else, with every tensor as the processor made it.
"""
