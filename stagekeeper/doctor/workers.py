"""What workers say of themselves: `/metrics` and `/health`."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.error import URLError

from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

_ANSWER_S: Final = 3.0
_PREFIX: Final = "stagekeeper_"


@dataclass(frozen=True)
class WorkerWords:
    """What one worker said.

    Attributes:
        address: Of its web server.
        numbers: The samples of `/metrics`, by name (without the prefix) and labels.
        judge: What `/health` says about the judge: `ok`, or what is wrong.
        clock: Its clock, to the second.
        silence: Why it did not answer; None where it did.
    """

    address: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    judge: str | None = None
    clock: datetime | None = None
    silence: str | None = None


def ask(address: str) -> WorkerWords:
    """Ask a worker how it is.

    Raises:
        UsageError: That is no address of a web server.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address} is no address of a worker; it is like http://127.0.0.1:9101.")
    root = address.rstrip("/")
    try:
        metrics, stated = _get(f"{root}/metrics")
        health, _ = _get(f"{root}/health")
        judge = str(json.loads(health).get("judge"))
        numbers = samples(metrics.decode())
    except (URLError, OSError, ValueError, AttributeError) as error:
        return WorkerWords(root, silence=str(getattr(error, "reason", error)))
    try:
        clock = parsedate_to_datetime(stated) if stated else None
    except ValueError:
        clock = None
    return WorkerWords(root, numbers, judge, clock)


def samples(text: str) -> dict[str, float]:
    """The samples of an exposition in Prometheus's text format that are ours.

    Raises:
        ValueError: It is none.
    """
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX): float(value) for name, value in pairs}


def announced(home: Path) -> str | None:
    """The address of the worker that `stagekeeper up` started in this home folder; None where it says none."""
    try:
        stated = json.loads((home / "worker.ready").read_text())
    except (OSError, ValueError):
        return None
    web = stated.get("web") if isinstance(stated, dict) else None
    return web if isinstance(web, str) else None


def _get(url: str) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:  # noqa: S310 - the scheme was checked
        return answer.read(), answer.headers.get("Date")
