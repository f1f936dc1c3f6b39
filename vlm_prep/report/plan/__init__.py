"""What a run will make of a source, estimated from some of its rows.

survey.py    tokenizes the looked-at rows in each payload mode
estimate.py  numbers with their 95 % intervals
findings.py  what was found, as JSON
planning.py  the whole plan
preflight.py the rows that a run would reject, in a file
plan_text.py the plan for a terminal
"""
