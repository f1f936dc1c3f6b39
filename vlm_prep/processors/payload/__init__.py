"""Media as stored tensors, bit by bit what the processor makes.

pixels.py     the image and video processors alone, as the runtime uses them
encodings.py  how media become stored tensors: found out with noise
uint8.py      float pixels as uint8 and back
maker.py      makes the stored tensors; patches.py, its fast way for Qwen's patches
quick.py      the same in training, of media that a store holds as files
stored.py     stored tensors → the processor's own; join.py, several media in one tensor
pointers.py   tensors of places in another one of the batch, counted on from row to row
stored_video.py  what stored videos are told to transformers of
nested.py     tensors in lists, of sizes that do not go into one
"""
