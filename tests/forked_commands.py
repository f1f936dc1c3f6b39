"""Commands in processes of their own, forked from one that has imported what they need: what an environment says to the
libraries at their import is read once for all commands under it, and each command is as new as it would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def forked_commands(folder: Path) -> Iterator[Command]:
    """Give `command(*words, env=...)`; `folder` takes what the commands print."""
    servers: dict[str, subprocess.Popen[str]] = {}

    def command(*words: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        key = json.dumps(sorted(env.items()))
        if key not in servers:
            line = [sys.executable, __file__]
            servers[key] = subprocess.Popen(
                line, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        server, out, err = servers[key], folder / "stdout", folder / "stderr"
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps([[str(word) for word in words], str(out), str(err)]), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess([*map(str, words)], status, out.read_text(), err.read_text())

    try:
        yield command
    finally:
        for server in servers.values():
            server.communicate()


def _serve() -> None:
    from vlm_prep.cli import main as cli
    from vlm_prep.core.own_process import make_own
    from vlm_prep.processors import lean_imports

    lean_imports.install()  # as the command does, before what it imports
    lean_imports.no_pandas()
    make_own()
    import datasets  # noqa: F401

    for line in sys.stdin:
        words, *files = json.loads(line)
        child = os.fork()
        if not child:
            for number, file in enumerate(files, start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["vlm-prep", *words]
            cli.main()  # ends the process
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
