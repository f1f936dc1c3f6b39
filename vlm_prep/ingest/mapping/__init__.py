"""Any table: which columns are media, which are text, and what is said to whom, declared and not programmed.

    scope         one row as a mapping sees it: columns by path, and what is drawn for the row
    pieces        text with media in it; json2token
    values        what a mapping may say in place of a text: templates, columns, choices, json2token, ...
    turn_rules    the turns: of constants and columns, of a list of pairs, of a column that holds a conversation
    proposal      a mapping for a row of which nothing is known
    compiled      the text of a mapping (YAML or JSON) → Mapping, or an InputError that says what to fix

A mapping makes turns and names media; it opens nothing. What it made goes the way of every other row
(`formats.by_mapping` → `formats.conversation`), so that media are found, checked and confined by the same rules.
"""
