"""A process that has imported everything and then forks one child a run: a run starts in milliseconds, not seconds.

`python -m tests.faults.zygote` reads one request a line from its standard input and answers on its standard output:

    {"extract": {...}}  an extraction, see `runs.extract`      -> {"pid": 123}
    {"argv": [...]}     a command line of `glot`               -> {"pid": 123}

and tells of every child that ends: {"pid": 123, "code": 0}. A child's output goes to the request's "output" file.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.005
LEASE_SECONDS = 6.0  # that a worker of Ray goes on without its command: half a minute would be a long test


def main() -> None:
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: F401 - imported once for all children

    import glot.corpus.load
    import glot.extract.run
    import glot.store.combine  # noqa: F401
    from glot.cluster import assign, ray_map
    from glot.commands import app as cli  # noqa: F401

    torch.set_num_threads(1)
    assign.LEASE_SECONDS, ray_map.FEW = LEASE_SECONDS, 1
    print(json.dumps({"ready": True}), flush=True)
    children: set[int] = set()
    while True:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            pid = _fork(json.loads(line))
            children.add(pid)
            print(json.dumps({"pid": pid}), flush=True)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            children.discard(pid)
            print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70  # an error that is none of ours
    try:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = _run(request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(request: dict[str, Any]) -> int:
    if "argv" in request:
        from glot.commands import app as cli

        sys.argv = ["glot", *request["argv"]]
        try:
            cli.main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0
    from glot.errors import GlotError
    from tests.faults.runs import extract

    values = request["extract"]
    try:
        extract(Path(values.pop("backbone")), Path(values.pop("out")), **values)
    except GlotError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    main()
