"""Running a stage as a list of deterministic tasks.

    tasks.py      a task is a range of rows; what a worker does with it and reports
    workspace.py  the output folder while it is being made: plan, commit records, finishing
    lock.py       one writer for a folder
    local.py      this machine's processes
    progress.py   what the user sees meanwhile

A task becomes committed shards and a record; the record list, in task order, becomes the manifest. Nothing that reaches
disk depends on which worker did a task or when.
"""
