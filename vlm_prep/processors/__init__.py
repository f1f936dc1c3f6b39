"""Model families over a Hugging Face processor.

    torchvision_cpu.py   makes torchvision import beside CPU torch
    lean_imports.py      the command line and its workers import what they use, no more
    chat_template.py     a template from Jinja, or from a JSON that holds it
    template_date.py     the day that a chat template writes, one for all rows
    argument_checks.py   settings of its parts that nobody knows, takes or uses
    load.py              finds and loads a processor, names its identity by content
    voxtral.py           Voxtral's processor, which mistral-common encodes for, called as others are
    hub.py               whether the Hugging Face hub answers, before it is asked file by file
    quiet.py             transformers without its words while a processor loads
    preload.py           what workers import before they are forked
    internals.py         the names inside transformers that no release promises to keep
    processor_parts.py   tokenizer, image, video and audio processors of a processor, by their roles
    token_types.py       what a processor says of each token beside its id
    adapter.py           what tokenizing asks of any family
    families/            one module a family, and the table of them
    placeholder_texts.py what a chat template writes for a media
    row_call.py          one call of the whole processor with a row's media
    text_probe.py        what a processor does to texts beside that
    batch_probe.py       whether two rows in one call are each, one after the other
    token_formula.py     a processor's own arithmetic for pictures, where it is proved
    blank_media.py       media of a size that show nothing, or noise
    audio_limit.py       how much of a clip a processor takes
    left_out.py          what of pictures and videos it leaves out
    expansion.py         a placeholder → the tokens it stands for; runs.py, equal tokens in a row
    fault_words.py       what a processor raised, in words
    video_sampling.py    other libraries' rules for that
    frames.py            which frames of a video are taken
    box_conventions.py   in which numbers a family's models give boxes
    runtime.py           what the runtime needs to know of a family
    stand_in.py          the smallest media that a processor takes
    model_config.py      the model's config, beside the processor or given
    model_cost.py        what a token and a patch cost in it
    backbone.py          what its layers need for documents that share a sequence
    attention_code.py    what a language model's code does with what a batch says of them
    state_code.py        what its layers that carry state are told of them by
    kinds_apart.py       rows that a model cannot read in one batch
    seen_pictures.py     which tokens see which pictures, by cross attention
    model_positions.py   position ids by a model's own function
    payload/             media → stored tensors, and back

Adding a family is one module with a subclass of `adapter.Adapter` and one row in `table.FAMILIES`.
"""
