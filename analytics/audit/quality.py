"""Data quality runs: validate fresh events with great-expectations, and store the result in the table `quality`.

The only module of the analytics that uses great-expectations and pandas. A run reads the stored bytes, needs no file,
no network and no configuration of the library, and writes nothing but its rows in `quality`.
"""

from __future__ import annotations

import importlib
import json
import math
import uuid
import warnings
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from pydantic import TypeAdapter

from analytics.audit.facts import NUMBERS, Facts, facts_of
from analytics.audit.suites import CRITICAL, SUITES, Check, Severity
from analytics.lake.table_schemas import COLUMNS, EVENTS, QUALITY
from producers.errors import StagekeeperError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import pandas as pd
    from great_expectations.core import ExpectationValidationResult

    from analytics.lake.tables import Lake

MOST_EVENTS: Final = 20_000  # a run checks at most so many events of a type, the newest
FIRST_WINDOW: Final = timedelta(hours=1)  # how far the first run looks back when no window is given
OVERLAP: Final = timedelta(minutes=1)  # with the run before: an event may be committed a moment after it was ingested


class QualityError(StagekeeperError):
    """A check could not be carried out; the events themselves may be sound."""


@dataclass(frozen=True)
class FailedExpectation:
    """An expectation that the events do not meet."""

    expectation: str  # name in great-expectations, for example `expect_column_values_to_not_be_null`
    column: str  # the fact that was looked at
    meaning: str  # what the failure means to a person
    severity: Severity  # a `critical` one fails the run, a `warning` is only shown
    unexpected: int  # number of events that do not meet it
    percent: float  # their share of the events that it applies to, in percent
    examples: tuple[str, ...]  # a few of them, each as `value (event id)`


@dataclass(frozen=True)
class TypeQuality:
    """Result of a run for one type of event."""

    event_type: str  # CloudEvents type
    events: int  # number of events in the window
    checked: int  # number of them that were checked; at most `MOST_EVENTS`, the newest
    failed: tuple[FailedExpectation, ...]  # expectations that do not hold, in the order of the suite

    @property
    def success(self) -> bool:
        """Whether every critical expectation holds."""
        return all(failure.severity != CRITICAL for failure in self.failed)

    def to_dict(self) -> dict[str, Any]:
        """The result of JSON types alone."""
        return {
            "event_type": self.event_type,
            "events": self.events,
            "checked": self.checked,
            "success": self.success,
            "failed": [asdict(failure) | {"examples": list(failure.examples)} for failure in self.failed],
        }


@dataclass(frozen=True)
class QualityRun:
    """One validation run."""

    run_id: str  # unique for each run
    run_at: datetime  # when it ran
    since: datetime  # events ingested after this moment were checked
    types: tuple[TypeQuality, ...]  # one result for each type that had events; empty without any

    @property
    def success(self) -> bool:
        """Whether every critical expectation holds for every type; true of an empty run, which claims nothing."""
        return all(of_type.success for of_type in self.types)

    def to_dict(self) -> dict[str, Any]:
        """The run of JSON types alone."""
        return {
            "run_id": self.run_id,
            "run_at": self.run_at.isoformat(),
            "since": self.since.isoformat(),
            "success": self.success,
            "types": [of_type.to_dict() for of_type in self.types],
        }


def run_quality(
    lake: Lake, *, now: datetime, window: timedelta | None = None, new_id: Callable[[], str] = lambda: uuid.uuid4().hex
) -> QualityRun:
    """Validate the events since `now - window`, or since the last run, and keep the result. Raises `QualityError`.

    A run without events is not kept: it would hide the last one that has something to say.
    """
    last = lake.scan(QUALITY).select(pl.col("run_at").max()).collect().item() if window is None else None
    first = now - (FIRST_WINDOW if window is None else window)
    since = first if last is None else last.astimezone(UTC) - OVERLAP
    types = []
    for event_type, suite in SUITES.items():
        fresh = lake.scan(EVENTS).filter(pl.col("type") == event_type, pl.col("ingested_at") > since)
        rows = fresh.top_k(MOST_EVENTS, by="ingested_at").collect().sort("ingested_at", "topic", "partition", "offset")
        if rows.is_empty():
            continue
        events = int(fresh.select(pl.len()).collect().item())
        facts = [facts_of(row) for row in rows.iter_rows(named=True)]
        types.append(TypeQuality(event_type, events, len(facts), _failures(facts, suite)))
    run = QualityRun(new_id(), now, since, tuple(types))
    if run.types:
        lake.append(QUALITY, _rows(run))
    return run


def latest_quality(lake: Lake | None) -> QualityRun | None:
    """The newest run that is kept; None when there is none."""
    if lake is None:
        return None
    runs = lake.scan(QUALITY)
    newest = runs.filter(pl.col("run_at") == pl.col("run_at").max()).collect()
    if newest.is_empty():
        return None
    run_id, run_at = newest["run_id"][0], newest["run_at"][0]
    stored = [json.loads(payload) for payload in newest.filter(pl.col("run_id") == run_id)["payload"]]
    return QualityRun(run_id, run_at, datetime.fromisoformat(stored[0]["since"]), _TYPES.validate_python(stored))


_TYPES: Final = TypeAdapter(tuple[TypeQuality, ...])


def _rows(run: QualityRun) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "run_id": run.run_id,
                "run_at": run.run_at,
                "event_type": of_type.event_type,
                "checked": of_type.checked,
                "success": of_type.success,
                "payload": json.dumps({"since": run.since.isoformat(), **of_type.to_dict()}),
            }
            for of_type in run.types
        ],
        schema=COLUMNS[QUALITY],
    )


def _frame(facts: list[Facts]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - half a second that only a run should pay

    frame = pd.DataFrame(facts).astype(object)
    # None in an object column is what the library takes for missing; NaN in a text column is not.
    frame = frame.where(frame.notna(), None)
    return frame.astype(dict.fromkeys(NUMBERS & set(frame.columns), "float64"))


def _failures(facts: list[Facts], suite: tuple[Check, ...]) -> tuple[FailedExpectation, ...]:
    """Validate facts with great-expectations; raises `QualityError` where it could not carry out a check."""
    gx, frame = _great_expectations(), _frame(facts)
    base = gx.data_context.types.base
    context = gx.get_context(
        mode="ephemeral",
        project_config=base.DataContextConfig(
            store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=base.ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    batch = (
        context.data_sources.add_pandas("lake")
        .add_dataframe_asset("events")
        .add_batch_definition_whole_dataframe("fresh")
        .get_batch({"dataframe": frame})
    )
    expectations = [_expectation(gx, position, check) for position, check in enumerate(suite)]
    result = batch.validate(
        gx.ExpectationSuite(name="fresh", expectations=expectations),
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": 3},
    )
    results = sorted(result.results, key=lambda judged: judged.expectation_config.meta["position"])
    return tuple(
        _failure(check, judged, frame) for check, judged in zip(suite, results, strict=True) if not judged.success
    )


def _great_expectations() -> ModuleType:
    """Import the library, which takes two seconds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "module 'sre_(constants|parse)' is deprecated", DeprecationWarning)
        importlib.import_module("great_expectations.expectations.row_conditions")
        return importlib.import_module("great_expectations")


def _expectation(gx: ModuleType, position: int, check: Check) -> object:
    arguments = dict(check.arguments)
    if check.when is not None:
        fact, values = check.when
        arguments["row_condition"] = gx.expectations.row_conditions.Column(fact).is_in(list(values))
    expectation = getattr(gx.expectations, check.kind)
    return expectation(column=check.fact, severity=check.severity, meta={"position": position}, **arguments)


def _failure(check: Check, judged: ExpectationValidationResult, frame: pd.DataFrame) -> FailedExpectation:
    result = judged.result
    if "unexpected_count" not in result:
        raise QualityError(
            f"{check.kind} of {check.fact} could not be carried out: {judged.exception_info}. "
            "Check the installed release of great-expectations."
        )
    examples = zip(result["partial_unexpected_list"], result["partial_unexpected_index_list"], strict=True)
    return FailedExpectation(
        expectation=str(judged.expectation_config.type),
        column=check.fact,
        meaning=check.meaning,
        severity=check.severity,
        unexpected=int(result["unexpected_count"]),
        percent=round(float(result["unexpected_percent"]), 2),
        examples=tuple(f"{_shown(value)} ({frame['event_id'].iloc[at]})" for value, at in examples),
    )


def _shown(value: object) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "nothing" if missing else str(value)
