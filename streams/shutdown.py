"""Shut down the worker's process, with a named error for what it could not save."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import NoReturn

from producers.errors import StagekeeperError
from streams.ingest.errors import DataPlaneError


def end_process(error: BaseException | None = None) -> NoReturn:
    """End the process at once, without waiting for threads or exit handlers.

    Native threads may still wait for a broker or a store that is gone. And a member that leaves in the middle of a join
    would lock the embedded broker's group for minutes; one that vanishes is forgotten after its session. An error of
    ours is shown as a message, any other with its trace.
    """
    code = 0
    if isinstance(error, StagekeeperError):
        code = error.exit_code
        sys.stderr.write(f"Error: {error}\n")
    elif error is not None:
        code = 1
        traceback.print_exception(error)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def unsaved(batches: int, lake_root: str) -> DataPlaneError | None:
    """The error for batches that were read and could not be committed before the end; None where there are none."""
    if batches <= 0:
        return None
    return DataPlaneError(
        f"the worker stopped before its last {batches} {'batch was' if batches == 1 else 'batches were'} committed to "
        f"the lake at {lake_root}: the lake did not answer in time. Nothing is lost: the next worker reads them again. "
        "Check that the lake can be reached and written; `stagekeeper doctor` says what is wrong."
    )
