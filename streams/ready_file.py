"""The file that says that a worker reads, and where it answers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from producers.web_guard import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ReadyFile:
    """The file; None where nobody waits for one."""

    path: Path | None

    def withdraw(self) -> None:
        """Take it away: who waits for it must not find that of a worker that is gone."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def announce(self, log_id: str, web: str, *, enacts: bool) -> None:
        """Say that this process reads a log, answers at an address, and whether it carries out recommendations."""
        if self.path is not None:
            draft = self.path.with_suffix(".draft")
            draft.write_text(json.dumps({"pid": os.getpid(), "log_id": log_id, "web": web, "enacts": enacts}))
            draft.replace(self.path)


def web_address(host: str, port: int) -> str:
    """The URL at which a web server is reached from this machine."""
    reached = LOOPBACK if host in {"0.0.0.0", "::"} else host  # noqa: S104
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"
