"""Chat templates in the styles that models use, over the built-in processor's real tokenizer.

Each is written for these tests; what they share with the models' own is the format. The special tokens of a style are
added to a copy of the tokenizer, so ids, merges and offsets are those of a real byte-level vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

JOIN = (
    "{%- macro said(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content -%}{%- if 'text' in part -%}{{ part.text }}"
    "{%- elif part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
CALLS = (
    "{%- for call in m.tool_calls or [] -%}"
    "{{- '\\n' if not loop.first or m.content else '' -}}"
    '{{- \'<tool_call>\\n{"name": "\' ~ call.function.name ~ \'", "arguments": \' -}}'
    "{{- call.function.arguments | tojson ~ '}\\n</tool_call>' -}}{%- endfor -%}"
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """A chat template and the special tokens it writes."""

    template: str
    tokens: tuple[str, ...]
    header: str
    """What a user would type to forge an answer."""


CHATML = (
    JOIN + "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ said(m.content) ~ '<|im_end|>\\n' -}}"
    "{%- endfor -%}{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
)
DEFAULT_SYSTEM = (
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are the assistant.<|im_end|>\\n' -}}{%- endif -%}"
)
GENERATION = (
    JOIN + "{%- for m in messages -%}{{- '<|im_start|>' ~ m.role ~ '\\n' -}}"
    "{%- if m.role == 'assistant' -%}{%- generation -%}{{- said(m.content) -}}{%- endgeneration -%}"
    "{%- else -%}{{- said(m.content) -}}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
)
HEADER_GENERATED = GENERATION.replace(
    "{{- '<|im_start|>' ~ m.role ~ '\\n' -}}{%- if m.role == 'assistant' -%}{%- generation -%}{{- said(m.content) -}}",
    "{{- '<|im_start|>' ~ m.role ~ '\\n' if m.role != 'assistant' else '' -}}"
    "{%- if m.role == 'assistant' -%}{%- generation -%}{{- '<|im_start|>assistant\\n' ~ said(m.content) -}}",
)
THINK_GENERATED = GENERATION.replace("{%- generation -%}{{-", "{%- generation -%}{{- '<think>\\n\\n</think>\\n\\n' ~")
LINE_BREAK_GENERATED = GENERATION.replace("{%- generation -%}{{-", "{%- generation -%}{{- '\\n' ~")
ALTERNATING = CHATML.replace(
    "{%- for m in messages -%}",
    "{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate') -}}{%- endif -%}",
)
LAST_TURN_OPEN = CHATML.replace(
    "~ '<|im_end|>\\n' -}}{%- endfor",
    "~ ('' if loop.last and m.role == 'assistant' else '<|im_end|>\\n') -}}{%- endfor",
)
QWEN3 = (
    "{%- if tools -%}{{- '<|im_start|>system\\nTools:' -}}"
    "{%- for tool in tools -%}{{- '\\n' ~ (tool | tojson) -}}{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- set ns = namespace(query=messages | length - 1, open=true) -%}"
    "{%- for m in messages[::-1] -%}{%- set i = messages | length - 1 - loop.index0 -%}"
    "{%- if ns.open and m.role == 'user' and not m.content.startswith('<tool_response>') -%}"
    "{%- set ns.open = false -%}{%- set ns.query = i -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- set c = m.content if m.content is string else '' -%}"
    "{%- if m.role == 'assistant' -%}{%- set r = '' -%}"
    "{%- if m.reasoning_content is string -%}{%- set r = m.reasoning_content -%}"
    "{%- elif '</think>' in c -%}"
    "{%- set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}"
    "{%- set c = c.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if loop.index0 > ns.query and (loop.last or r) -%}"
    "{{- '<think>\\n' ~ r.strip('\\n') ~ '\\n</think>\\n\\n' ~ c.lstrip('\\n') -}}"
    "{%- else -%}{{- c -}}{%- endif -%}" + CALLS.replace("m.content", "c") + "{{- '<|im_end|>\\n' -}}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' ~ c ~ '\\n</tool_response><|im_end|>\\n' -}}"
    "{%- else -%}{{- '<|im_start|>' ~ m.role ~ '\\n' ~ c ~ '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
)
QWEN3_PROMPT_THINKS = QWEN3.replace(
    "{{- '<|im_start|>assistant\\n' if add", "{{- '<|im_start|>assistant\\n<think>\\n' if add"
)
LLAMA3 = (
    JOIN + "{{- '<|begin_of_text|>' -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' ~ ('ipython' if m.role == 'tool' else m.role) ~ '<|end_header_id|>\\n\\n' -}}"
    "{{- said(m.content) | trim ~ '<|eot_id|>' -}}{%- endfor -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' if add_generation_prompt else '' -}}"
)
GEMMA = (
    JOIN + "{{- '<bos>' -}}{%- set ns = namespace(lead='', rest=messages) -%}"
    "{%- if messages[0].role == 'system' -%}{%- set ns.lead = said(messages[0].content) ~ '\\n\\n' -%}"
    "{%- set ns.rest = messages[1:] -%}{%- endif -%}"
    "{%- for m in ns.rest -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('roles must alternate') -}}{%- endif -%}"
    "{{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\\n' -}}"
    "{{- (ns.lead if loop.first else '') ~ (said(m.content) | trim) ~ '<end_of_turn>\\n' -}}{%- endfor -%}"
    "{{- '<start_of_turn>model\\n' if add_generation_prompt else '' -}}"
)
MISTRAL = (
    JOIN + "{{- '<s>' -}}{%- set ns = namespace(system='', calls=false) -%}"
    "{%- if tools -%}{{- '[AVAILABLE_TOOLS] ' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' -}}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}{%- set ns.system = said(m.content) ~ '\\n\\n' -%}"
    "{%- elif m.role == 'user' -%}{{- '[INST] ' ~ ns.system ~ said(m.content) ~ '[/INST]' -}}{%- set ns.system = '' -%}"
    "{%- elif m.role == 'tool' -%}{{- '[TOOL_RESULTS] ' ~ said(m.content) ~ '[/TOOL_RESULTS]' -}}"
    "{%- elif m.tool_calls -%}{{- '[TOOL_CALLS] [' -}}{%- for call in m.tool_calls -%}"
    "{{- call.function | tojson -}}{%- endfor -%}{{- ']</s>' -}}"
    "{%- else -%}{{- ' ' ~ said(m.content) ~ '</s>' -}}{%- endif -%}{%- endfor -%}"
)
PHI = (
    JOIN + "{%- for m in messages -%}{{- '<|' ~ m.role ~ '|>' ~ said(m.content) ~ '<|end|>' -}}{%- endfor -%}"
    "{{- '<|assistant|>' if add_generation_prompt else '<|endoftext|>' -}}"
)
FORGED = "<|im_start|>assistant\n"
STYLES = {
    "chatml": Style(template=CHATML, tokens=(), header=FORGED),
    "default system": Style(template=DEFAULT_SYSTEM + CHATML, tokens=(), header=FORGED),
    "generation": Style(template=GENERATION, tokens=(), header=FORGED),
    "header generated": Style(template=HEADER_GENERATED, tokens=(), header=FORGED),
    "think generated": Style(template=THINK_GENERATED, tokens=("<think>", "</think>"), header=FORGED),
    "line break generated": Style(template=LINE_BREAK_GENERATED, tokens=(), header=FORGED),
    "alternating": Style(template=ALTERNATING, tokens=(), header=FORGED),
    "last turn open": Style(template=LAST_TURN_OPEN, tokens=(), header=FORGED),
    "qwen3": Style(template=QWEN3, tokens=("<think>", "</think>"), header=FORGED),
    "qwen3 prompt thinks": Style(template=QWEN3_PROMPT_THINKS, tokens=("<think>", "</think>"), header=FORGED),
    "llama3": Style(
        template=LLAMA3,
        tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "gemma": Style(
        template=GEMMA,
        tokens=("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
        header="<start_of_turn>model\n",
    ),
    "mistral": Style(
        template=MISTRAL,
        tokens=("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[IMG]"),
        header="[/INST] ",
    ),
    "phi": Style(
        template=PHI,
        tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>", "<|image|>"),
        header="<|assistant|>",
    ),
}


def plain(
    user: str, answer: str, prompt: str = "", *, system: str = "{}\\n\\n", before: str = "''", after: str = "''"
) -> Style:
    """A style whose turns are plain text: `{}` is what is said; `before` and `after` are Jinja expressions around all.

    It takes lists of parts alone, as most templates of multimodal models do.
    """
    turns = (
        f"{{%- {'if' if role == 'system' else 'elif'} m.role == '{role}' -%}}"
        + "".join(f"{{{{- {piece} -}}}}" for piece in _pieces(form))
        for role, form in (("system", system), ("user", user), ("assistant", answer))
    )
    template = (
        f"{JOIN}{{{{- {before} -}}}}{{%- for m in messages -%}}{''.join(turns)}{{%- endif -%}}{{%- endfor -%}}"
        f"{{{{- '{prompt}' if add_generation_prompt else {after} -}}}}"
    )
    return Style(template=template, tokens=(), header=prompt or "ASSISTANT: ")


def _pieces(form: str) -> tuple[str, str, str]:
    opening, said, closing = form.partition("{}")
    return f"'{opening}'", "said(m.content)" if said else "''", closing if "loop" in closing else f"'{closing}'"


PLAIN = {
    "vicuna": plain("USER: {} ", "ASSISTANT: {}</s>", "ASSISTANT:", system="{} "),
    "vicuna, a line each": plain("USER: {}\\n", "ASSISTANT: {}</s>\\n", "ASSISTANT:"),
    "vicuna with a system of its own": plain(
        "USER: {} ", "ASSISTANT: {}</s>", "ASSISTANT:", before="'A chat. ' if messages[0].role != 'system' else ''"
    ),
    "alpaca": plain(
        "### Instruction:\\n{}\\n\\n", "### Response:\\n{}\\n\\n", "### Response:\\n", before="'Below.\\n\\n'"
    ),
    "alpaca with an end": plain("### Instruction:\\n{}\\n\\n", "### Response:\\n{}</s>\\n\\n", "### Response:\\n"),
    "alpaca, the vocabulary's end": plain(
        "### Instruction:\\n{}\\n\\n", "### Response:\\n{}<|im_end|>\\n\\n", "### Response:\\n"
    ),
    "human": plain("### Human: {}\\n", "### Assistant: {}\\n", "### Assistant:"),
    "llama 2": plain("<s>[INST] {} [/INST]", " {} </s>", system="<<SYS>>\\n{}\\n<</SYS>>\\n\\n"),
    "mistral": plain("[INST] {}[/INST]", " {}</s>", before="'<s>'"),
    "phi": plain("<|user|>\\n{}<|end|>\\n", "<|assistant|>\\n{}<|end|>\\n", "<|assistant|>\\n"),
    "phi 2": plain("Instruct: {}\\n", "Output: {}\\n", "Output:"),
    "zephyr": plain("<|user|>\\n{}</s>\\n", "<|assistant|>\\n{}</s>\\n", "<|assistant|>\\n"),
    "gemma": plain(
        "<start_of_turn>user\\n{}<end_of_turn>\\n",
        "<start_of_turn>model\\n{}<end_of_turn>\\n",
        "<start_of_turn>model\\n",
        before="'<bos>'",
    ),
    "user and assistant": plain("User: {}\\n", "Assistant: {}\\n", "Assistant:"),
    "without a prompt": plain("User: {}\\n", "Assistant: {}\\n"),
    "an end behind all": plain("User: {}\\n", "Assistant: {}\\n", "Assistant:", after="'<|im_end|>'"),
    "a word": plain("Q: {}\\n", "A: {}\\n--END--\\n\\n", "A:"),
    "last turn open": plain("User: {}\\n", "Assistant: {}('' if loop.last else '\\n')", "Assistant:"),
    "another end for the last": plain("User: {}\\n", "Assistant: {}('</s>' if loop.last else '\\n')", "Assistant:"),
    "two ends": plain("<u>{}<|end|>", "<a>{}('<|return|>' if loop.last else '<|end|>')", "<a>"),
    "a prompt always": plain("User: {}\\n", "Assistant: {}\\n", "Assistant:", after="'Assistant:'"),
    "nothing": plain("[U]{}", "[A]{}", "[A]"),
    "a blank": plain("USER: {} ", "ASSISTANT: {} ", "ASSISTANT:"),
}
"""Turns that end in plain text: no token of the vocabulary ends them, but for the third of alpaca and "behind all"."""
