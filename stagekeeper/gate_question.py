"""Ask the gate as commands and the service do: by the configured gate file and lake, and no where either is missing."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from analytics.gates.gate_file import GateFile
from analytics.lake.errors import READ_FAILURES
from analytics.lake.storage import unreadable
from analytics.lake.tables import Lake
from analytics.verdicts.gate_check import GateAnswer, gate_check, refusal
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from pathlib import Path

    from stagekeeper.settings import Settings

logger = logging.getLogger(__name__)


class GateQuestion(NamedTuple):
    """May an action move to a stage?"""

    environment: str
    workflow: str
    tool: str
    to_stage: str
    cohort: str | None = None  # None: the worst of all


class AskedGate(NamedTuple):
    """The gate's answer, and until when its evidence is fresh enough."""

    answer: GateAnswer
    expires_at: datetime | None  # None where there is no evidence


def ask_gate(
    question: GateQuestion,
    settings: Settings,
    *,
    root: str,
    gate_path: Path | None = None,
    max_age: timedelta | None = None,  # narrows how old the evidence may be
) -> AskedGate:
    """The answer of the ledger; whatever breaks is a no, with the error as its reason."""
    expires_at = None
    try:
        gates = GateFile.load(gate_path if gate_path is not None else settings.gates)
        limit = min(settings.freshness_limit(gates.freshness_s), timedelta.max if max_age is None else max_age)
        lake, now = Lake.existing(root), datetime.now(UTC)
        answer = gate_check(lake, gates, now=now, freshness_s=limit.total_seconds(), **question._asdict())
        if answer.age_s is not None:
            left_s = max(0.0, min(limit.total_seconds(), gates.freshness_s) - answer.age_s)
            expires_at = now + timedelta(seconds=left_s) if left_s < timedelta.max.total_seconds() / 2 else None
    except StagekeeperError as error:
        answer = refusal("error", str(error), question.to_stage)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Whatever breaks, even a panic inside a library, which is no Exception: a gate that was asked answers no.
        logger.debug("the gate could not be asked", exc_info=True)
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, READ_FAILURES):
            message = str(unreadable(root, error))
        answer = refusal("error", message, question.to_stage)
    return AskedGate(answer, expires_at)
