"""Marks on a list of verdicts: which of many cells to believe when they are looked at together.

Alpha and beta are promises to each cell. Of a list of many cells, e-BH marks as many as carry each other, so that at
most a stated share of the marks is wrong on average. Harm and safety are two lists. The marks decide nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

import numpy as np

from analytics.evidence.false_discovery import discoveries
from analytics.judging.levels import EARLY_SHARE
from analytics.text import percent
from analytics.verdicts.evidence_models import DocumentPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence

FALSE_DISCOVERY_RATE: Final = 0.05
"""Of the marks of one kind, at most this share is wrong on average."""

_UNKNOWN: Final = -math.inf
_PARTS: Final = (("windows", 1.0 - 2 * EARLY_SHARE), ("first_actions", EARLY_SHARE), ("heavy_users", EARLY_SHARE))

Kind = Literal["harm", "safe"]


class CellEvidence(NamedTuple):
    """The evidence of one cell as a whole, natural logarithms of e-values; minus infinity where it has none."""

    harm: float  # that some guardrail is broken: the mean of all guardrails' e-values, by weight and part
    safe: float  # that every limit is kept: the least of the signals' e-values

    @classmethod
    def from_document(cls, document: VerdictDocument) -> Self:
        """What the evidence of a verdict says about its cell; dry runs of single signals have no part in it."""
        weighed = [part for part in document.signals if part.log_e_harm is not None and not part.dry_run]
        guardrails = [part for part in weighed if part.role == "guardrail" and part.weight]
        terms = [
            _harm_of(part, kind) + math.log(share) + math.log(part.weight or 1.0)
            for kind, share in _PARTS
            for part in guardrails
        ]
        wanted = [part for part in weighed if part.role in {"guardrail", "promote"}]
        seen = [part for part in wanted if part.trials or part.needs_data]
        harm = float(np.logaddexp.reduce(terms)) if terms else _UNKNOWN
        return cls(harm, min(map(_safe_of, seen), default=_UNKNOWN))


class ListMarks(DocumentPart):
    """Which verdicts of a list to believe, by e-BH (Wang & Ramdas, JRSS-B 84, 2022) on the evidence they rest on."""

    false_discovery_rate: float = FALSE_DISCOVERY_RATE
    """Of the marks of one kind, at most this share is wrong on average, however the cells depend on each other."""
    cells: int = 0
    """How many cells the list has: the more, the more evidence a mark takes."""
    harm: tuple[str, ...] = ()
    """The verdicts, by id, whose cells break a limit."""
    safe: tuple[str, ...] = ()
    """The verdicts, by id, whose cells keep every limit."""

    @classmethod
    def of_documents(cls, documents: Iterable[VerdictDocument]) -> Self:
        """Mark the newest verdict on each cell of a lake; a part of them would be a list that somebody chose."""
        return cls.of_evidence({one.verdict_id: CellEvidence.from_document(one) for one in documents})

    @classmethod
    def of_evidence(cls, evidence: Mapping[str, CellEvidence]) -> Self:
        """Mark verdicts by the evidence of each, which is given by the verdict's id."""
        in_order = sorted(evidence.items())
        ids = np.array([verdict_id for verdict_id, _ in in_order], dtype=np.object_)
        harm, safe = (np.array([one[side] for _, one in in_order], dtype=np.float64) for side in (0, 1))
        return cls(
            cells=len(evidence),
            harm=tuple(ids[discoveries(harm, alpha=FALSE_DISCOVERY_RATE)]),
            safe=tuple(ids[discoveries(safe, alpha=FALSE_DISCOVERY_RATE)]),
        )

    @property
    def kinds(self) -> dict[str, Kind]:
        """What is marked, by the verdict's id."""
        return {**dict.fromkeys(self.safe, "safe"), **dict.fromkeys(self.harm, "harm")}

    @property
    def note(self) -> str:
        """What a mark means, for the foot of a list."""
        cells = f"{self.cells:,} cell{'' if self.cells == 1 else 's'}"
        return (
            f"* marked by e-BH over all {cells}: of the marks for harm, and of those for safety, at most "
            f"{percent(self.false_discovery_rate)} are wrong on average. Marks decide nothing; a verdict without one "
            "rests on its own cell's alpha and beta."
        )


def _harm_of(part: SignalEvidence, kind: str) -> float:
    """Evidence of harm of one kind; where a signal has no early evidence, that of its windows or actions stands."""
    if kind == "windows" or part.first_actions is None:
        return part.log_e_harm or 0.0
    if kind == "first_actions":
        return part.first_actions.log_e_harm
    return 0.0 if part.heavy_users is None else part.heavy_users.log_e_harm


def _safe_of(part: SignalEvidence) -> float:
    least = 0.0 if part.log_e_safe is None else part.log_e_safe
    return least if part.pooled is None else min(least, part.pooled.log_e_safe)
