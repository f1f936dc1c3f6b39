"""Running a stage as a list of deterministic tasks.

    tasks.py      a task is a range of rows; what a worker does with it and reports
    workspace.py  the output folder while it is being made: plan, commit records, finishing
    ownership.py  which run owns it
    claim.py      how a run, a part of one or a retry gets it
    array_parts.py  a run that several machines do in parts
    lock.py       one writer for a folder
    stage.py      a stage from tasks to manifest: the steps that ingest, tokenize and pack share
    accounts.py   the counts of all tasks together, and when too many rows are lost
    local.py      this machine's workers, and which row ends or hangs one
    worker.py     one worker process
    ray.py        the workers of a Ray cluster
    heartbeat.py  where a worker is, told through memory that outlives it
    repair.py     lost shards of a finished store, made again
    retry_rejects.py  rejected rows of a finished store, done again
    publish.py    several files of a finished store, replaced together
    run_options.py  how a stage runs
    progress.py   what the user sees meanwhile
    events.py     what dashboards and `vlm-prep status` see

A task becomes committed shards and a record; the record list, in task order, becomes the manifest. Nothing that reaches
disk depends on which worker did a task or when.
"""
