"""What the golden lakes need of the product, imported in this one place."""

from analytics.counters import COUNTERS
from analytics.evidence.histogram import bin_of
from analytics.lake.schemas import COLUMNS, EVENTS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.report import build_report
from analytics.verdicts.backtest import backtest
from analytics.verdicts.gates import GateFile
from analytics.verdicts.history import History, run
from analytics.verdicts.judge import Judge
from analytics.verdicts.replay import replay
from analytics.verdicts.verdict import REASON_CODES
from producers.delivery.emitter import DeliveryStats
from producers.delivery.recorder import Recorder
from producers.sources.catalog import Catalog
from producers.sources.importer import TranscriptImport
from producers.sources.scenarios import scenario
from producers.sources.simulator import Plan, Simulator
from producers.sources.transcript import read_transcript
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.decision import Allow, Decision
from producers.wire.events import Event, ExecutionStatus, Incident, UndoResult
from producers.wire.stage import LADDER, Stage
from stagekeeper.inprocess import InProcessFold

__all__ = [
    "COLUMNS",
    "COUNTERS",
    "EVENTS",
    "LADDER",
    "REASON_CODES",
    "SIGNALS",
    "VERDICTS",
    "ActionContract",
    "Actor",
    "Allow",
    "Catalog",
    "Decision",
    "DeliveryStats",
    "Event",
    "ExecutionStatus",
    "GateFile",
    "History",
    "InProcessFold",
    "Incident",
    "Judge",
    "Lake",
    "Plan",
    "Recorder",
    "Reversibility",
    "RiskClass",
    "Simulator",
    "Stage",
    "Target",
    "TranscriptImport",
    "UndoResult",
    "backtest",
    "bin_of",
    "build_report",
    "read_transcript",
    "replay",
    "run",
    "scenario",
]
