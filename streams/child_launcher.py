"""Run a command that ends with the process that started it: `python launcher.py PARENT_PID COMMAND...`.

A program of its own, run by path and without the site packages: it must be quick, and everything between the fork and
the command has to happen in a process that has no threads.

On Linux the kernel kills the command when its parent dies, however that happens. Elsewhere there is no such order to
give: the command is run as it is, and outlives a parent that is killed with SIGKILL (one that ends by itself, by Ctrl-C
or by SIGTERM stops its children everywhere).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Bind the life of this process to its parent's, then become the command."""
    parent = int(arguments[0])
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the order was given
        sys.exit(1)
    os.execvp(arguments[1], arguments[1:])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
