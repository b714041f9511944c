"""What the golden lakes need of the product, imported in this one place."""

from analytics.audit.replay import replay
from analytics.backtest.compare import backtest
from analytics.backtest.history import History, run
from analytics.evidence.histogram import bin_of
from analytics.gates.gate_file import GateFile
from analytics.judging.judge import Judge
from analytics.lake.table_schemas import COLUMNS, EVENTS, SIGNALS, VERDICTS
from analytics.lake.tables import Lake
from analytics.report import build_report
from analytics.signals.definitions import COUNTERS
from analytics.verdicts.document import VerdictDocument
from analytics.verdicts.verdict import REASON_CODES
from producers.delivery.recorder import Recorder
from producers.importers.catalog import Catalog
from producers.importers.importer import TranscriptImporter as TranscriptImport
from producers.importers.transcript import read_transcript
from producers.simulation.scenarios import scenario
from producers.simulation.simulator import Simulator
from producers.simulation.simulator import TrafficPlan as Plan
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.decision import Allow, Decision
from producers.wire.events import Event, ExecutionStatus, Incident, UndoResult
from producers.wire.stage import LADDER, Stage
from stagekeeper.local_ingest import LocalIngest

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
    "Event",
    "ExecutionStatus",
    "GateFile",
    "History",
    "Incident",
    "Judge",
    "Lake",
    "LocalIngest",
    "Plan",
    "Recorder",
    "Reversibility",
    "RiskClass",
    "Simulator",
    "Stage",
    "Target",
    "TranscriptImport",
    "UndoResult",
    "VerdictDocument",
    "backtest",
    "bin_of",
    "build_report",
    "read_transcript",
    "replay",
    "run",
    "scenario",
]
