"""A judge in a process of its own, for tests that stop it, wake it and kill it.

    python judge_process.py ROOT GATES LEASE_S

Prints a line for everything that happens to it, as JSON. Ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import select
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from analytics.judging.judge import Judge
from analytics.lake.errors import FencedError
from analytics.lake.leases import JUDGE, Lease
from analytics.lake.table_schemas import COLUMNS, VERDICTS
from analytics.lake.tables import Lake


def say(what: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"pid": os.getpid(), "what": what, **more}) + "\n")
    sys.stdout.flush()


def main(root: str, gates: str, lease_s: float) -> None:
    lake, claim = Lake.open(root), Lease(root, JUDGE, lease_s=lease_s)
    judge, tenure = None, None
    say("ready")
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        if not claim.held():
            continue
        fence = claim.fence
        if fence != tenure:
            lake.append(VERDICTS, pl.DataFrame(schema=COLUMNS[VERDICTS]), fence=fence)
            judge, tenure = Judge(lake, Path(gates), settle_s=0, fence=fence), fence
            say("judges", epoch=fence.epoch if fence else None)
        try:
            if judge is not None:
                judge.tick(datetime.now(UTC))
        except FencedError as error:
            say("fenced", message=str(error))
            judge, tenure = None, None
    claim.release()
    say("gone")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
