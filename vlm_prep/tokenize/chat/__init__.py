"""The chat template: a row rendered, and where each of its texts landed.

template.py        rendering, with sentinels that say where each text landed
sentinels.py       characters around texts that show where a template put them
substitution.py    where a text landed, by a render with another in its place
template_probe.py   what a template supports and how it writes turns, found out with small conversations
fit.py             a row in the form that the template takes
tool_text.py       tool schemas and calls as text, for templates that do not know them
control_tokens.py  control tokens typed in the data
"""
