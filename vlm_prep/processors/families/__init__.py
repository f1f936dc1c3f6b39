"""One module a model family, each a subclass of `adapter.Adapter`.

table.py      which family a processor belongs to, by class ancestry
qwen_vl.py    Qwen2-VL, Qwen2.5-VL, Qwen3-VL: token counts by formula
qwen_omni.py  Qwen2.5-Omni and Qwen3-Omni
llava.py  mllama.py  internvl.py  gemma.py  pixtral.py  kimi.py  phi4.py  nemotron.py
prompt_answer.py  encoder-decoders: Nemotron-Parse, Whisper, Donut
florence.py   Florence-2, whose encoder reads the prompt, too
paligemma.py  prompt and answer in one sequence
generic.py    any other `AutoProcessor`: by size where that is enough, else by row or whole
proof.py      whether a family's arithmetic holds for a processor
not_chats.py  classes that serve no chat, and why
checked.py    what was seen of each processor class of transformers
"""
