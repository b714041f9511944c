"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import socket

from producers.web_guard import LOOPBACK


def available_port(preferred: int = 0, *, taken: frozenset[int] = frozenset()) -> int:
    """The preferred port (0: any) when it can be listened on and is not `taken`, else a free one."""
    if preferred and preferred not in taken and _bound(preferred) is not None:
        return preferred
    while True:
        free = _bound(0)
        if free is None:
            raise OSError(f"no TCP port can be opened on {LOOPBACK}")
        if free not in taken:
            return free


def _bound(port: int) -> int | None:
    """The port that could be bound, or None when somebody else listens on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: connections of an earlier run that linger must not count as a taken port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return None
        bound: int = probe.getsockname()[1]
        return bound
