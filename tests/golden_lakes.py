"""Lakes of which the verdicts are kept: each is built from a seed, judged look by look, and put into its golden form.

python tests/golden_lakes.py                 what differs from the golden files
python tests/golden_lakes.py --write [LAKE …]  say what differs, and write the files anew
python tests/golden_lakes.py --show fleet CELL  one cell's verdicts as they are today, as JSON
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import golden_fleet
from golden_documents import checked, differences, normal, parted, read, write
from golden_product import (
    EVENTS,
    SIGNALS,
    VERDICTS,
    GateFile,
    History,
    Judge,
    Lake,
    LocalIngest,
    VerdictDocument,
    backtest,
    build_report,
    replay,
    run,
)
from golden_traffic import BESIDE_A_HOLD_BACK, NOON, WITH_LATE_OUTCOMES, people, recorded, simulated
from shared_recordings import EXAMPLES, FILE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from golden_documents import Document
    from golden_product import Event

FOLDER: Final = Path(__file__).parent / "golden"
DEMO_GATES: Final = ROOT / "stagekeeper" / "embedded" / "demo_gates.yaml"
CHOSEN: Final = 300
"""Cells of the fleet that are kept whole; of all others a digest is."""
CELL: Final = ("environment", "workflow", "tool", "stage", "cohort")

LATE_GATES: Final = """\
version: 1
user_window: 10m
freshness: 30m
gates:
  - name: late outcomes
    match: {workflow: refunds}
    minimum_exposure: {users: 40}
    signals:
      - {signal: execution_error, role: guardrail, limit: 0.10}
      - {signal: undo, role: guardrail, limit: 0.10, maturity: 30m}
      - {signal: missing_outcome, role: guardrail, limit: 0.05}
      - {signal: severe_incident, role: trip}
"""


@dataclass
class Golden:
    """A lake, its gate file, and what its judge said so far."""

    folder: Path
    gates: bytes
    news: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lake = Lake.open(str(self.folder / "lake"))
        self.gate_path = self.folder / "gates.yaml"
        self.moment = NOON
        self._fold = LocalIngest(now=lambda: self.moment)
        self.begin()
        self.edit(self.gates)

    def begin(self) -> None:
        """A judge that knows nothing but the lake: the first one, or one after a restart."""
        self.judge = Judge(self.lake, self.gate_path, settle_s=0)

    def edit(self, gates: bytes) -> None:
        """Put another gate file in force."""
        self.gate_path.write_bytes(gates)

    def store(self, events: Sequence[Event]) -> None:
        """Fold events as the worker does, in one batch."""
        if events:
            folded = self._fold.fold(events)
            self.lake.append(EVENTS, folded.events)
            self.lake.append(SIGNALS, folded.signals)

    def look(self, now: datetime) -> None:
        """Judge at a moment until the ledger has all of it."""
        news = []
        while True:
            news += [event.id for event in self.judge.tick(now)]
            if not self.judge.has_more:
                break
        self.news.append(news)

    def live(self, events: Sequence[Event], *, every: timedelta, restart_at: int, edit_at: int, edited: bytes) -> None:
        """Store events and look, step by step of event time, through a restart and an edit of the gate file."""
        waiting, step = list(events), 0
        now = min(event.time for event in events).replace(second=0, microsecond=0)
        while waiting:
            now, step = now + every, step + 1
            # In the order in which they were told: an event is stored once all before it have happened.
            stop = next((place for place, event in enumerate(waiting) if event.time > now), len(waiting))
            self.moment = now
            self.store(waiting[:stop])
            del waiting[:stop]
            if step == restart_at:
                self.begin()
            if step == edit_at:
                self.edit(edited)
            self.look(now)


def demo(folder: Path) -> Golden:
    """A company's ordinary four hours, under the demonstration's gates."""
    gates = DEMO_GATES.read_bytes()
    golden = Golden(folder, gates)
    events = simulated("demo", seed=11, events=10_000, span=timedelta(hours=4))
    golden.live(events, every=timedelta(minutes=30), restart_at=3, edit_at=6, edited=_changed(gates))
    return golden


def drift(folder: Path) -> Golden:
    """An action that is promoted and then fails, under the demonstration's gates."""
    gates = DEMO_GATES.read_bytes()
    golden = Golden(folder, gates)
    events = simulated("drifting-after-promotion", seed=12, events=5_000, span=timedelta(hours=5))
    golden.live(events, every=timedelta(minutes=30), restart_at=6, edit_at=99, edited=b"")
    return golden


def airline(folder: Path) -> Golden:
    """The recorded airline agents, under the example's gates."""
    golden = Golden(folder, (EXAMPLES / "gates-airline.yaml").read_bytes())
    events = recorded(NOON)
    golden.live(events, every=timedelta(seconds=15), restart_at=2, edit_at=99, edited=b"")
    golden.look(golden.moment + timedelta(hours=1))
    return golden


def holdback(folder: Path) -> Golden:
    """Tools beside a hold-back, users and all: ratios, declared splits, a model that is replaced."""
    golden = Golden(folder, (EXAMPLES / "gates-holdback.yaml").read_bytes())
    events = people(BESIDE_A_HOLD_BACK, seed=13, hours=9, per_minute=3)
    golden.live(events, every=timedelta(minutes=75), restart_at=3, edit_at=99, edited=b"")
    return golden


def late(folder: Path) -> Golden:
    """Outcomes that come once another epoch has begun: epochs that are over are graded anew."""
    golden = Golden(folder, LATE_GATES.encode())
    events = people(WITH_LATE_OUTCOMES, seed=14, hours=9, per_minute=3)
    golden.live(events, every=timedelta(minutes=45), restart_at=9, edit_at=99, edited=b"")
    return golden


def fleet(folder: Path) -> Golden:
    """Ten thousand cells of counters, three looks, with a restart before the last."""
    golden = Golden(folder, golden_fleet.GATES.encode())
    for look in range(golden_fleet.LOOKS):
        golden.lake.append(SIGNALS, golden_fleet.increments(look))
        if look == golden_fleet.LOOKS - 1:
            golden.begin()
        golden.look(golden_fleet.BEGAN_AT + (look + 1) * golden_fleet.BETWEEN_LOOKS)
    return golden


LAKES: Final[dict[str, Callable[[Path], Golden]]] = {
    made.__name__: made for made in (demo, drift, airline, holdback, late, fleet)
}
SECTIONS: Final = ("signals", "verdicts", "sentences", "identities", "replays", "history")
"""Parts of a golden file, each compared by a test of its own."""


def missing(name: str) -> str | None:
    """Why a lake cannot be built here; None where it can."""
    gone = name == "airline" and not FILE.is_file()
    return f"the recorded calls are not at {FILE}; set STAGEKEEPER_RECORDED_CALLS to the file" if gone else None


def form(name: str, golden: Golden) -> Document:
    """A lake's golden form."""
    ledger = golden.lake.scan(VERDICTS).select("payload", "changed", "judged_at").collect().to_dicts()
    rows = [(json.loads(row["payload"]), row["changed"]) for row in ledger]
    moments = {moment: place for place, moment in enumerate(sorted({document["judged_at"] for document, _ in rows}))}
    names = {document["verdict_id"]: _name(document, moments[document["judged_at"]]) for document, _ in rows}
    if not len(set(names.values())) == len(names) == len(rows):
        raise ValueError(f"the ledger of {name} has two verdicts of one name")
    recorded_rows = sorted((names[document["verdict_id"]], document, changed) for document, changed in rows)
    parts: dict[str, Document] = {"verdicts": {}, "sentences": {}, "identities": {}}
    for called, document, changed in recorded_rows:
        numbers, sentences, identities = parted(
            {**normal(document, names), "verdict_id": document["verdict_id"], "changed": changed}
        )
        parts["verdicts"][called], parts["sentences"][called] = numbers, sentences
        parts["identities"][called] = identities
    signals = {_cell(row): normal(row, {}) for row in build_report(golden.lake).to_dict()["signals"]}
    if name == "fleet":
        return {**_fleet_form(signals, parts), "replays": _replays(golden, recorded_rows, names)}
    news = [sorted(names[told_id] for told_id in look) for look in golden.news]
    result = {"signals": signals, **parts, "replays": _replays(golden, recorded_rows, names), "history": None}
    result["verdicts"] = {"ledger": parts["verdicts"], "news": news}
    if name in {"demo", "drift", "late"}:
        result["history"] = _history(name, golden)
    return {section: part for section, part in result.items() if part is not None}


def _name(document: Document, look: int) -> str:
    return f"{_cell(document)}@{document['epoch'][:8]}#{look}{'r' if document['is_regrade'] else ''}"


def _cell(row: Document) -> str:
    return "/".join(row[part] for part in CELL)


def _fleet_form(signals: Document, parts: dict[str, Document]) -> Document:
    """Digests of all cells, and some whole: of every verdict and set of reason codes at each look, at least one."""
    cells: dict[str, list[str]] = {cell: [] for cell in sorted(signals)}
    for called in parts["verdicts"]:
        cells[called.partition("@")[0]].append(called)
    outlines: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    chosen: list[str] = []
    for cell, own in cells.items():
        before = len(seen)
        for each in own:
            document = parts["verdicts"][each]
            said = outline(document)
            outlines.setdefault(said, len(outlines))
            seen.add((each.rpartition("#")[2], said))
        if len(seen) > before and len(chosen) < CHOSEN:
            chosen.append(cell)
    result: Document = {
        "signals": {"whole": {cell: signals[cell] for cell in chosen}, **_digests(cells, lambda cell: signals[cell])}
    }
    for section, documents in parts.items():
        whole = {called: documents[called] for cell in chosen for called in cells[cell]}

        def of_cell(cell: str, documents: Document = documents) -> Document:
            return {called: documents[called] for called in cells[cell]}

        result[section] = {"whole": whole, **_digests(cells, of_cell)}
    said_by_cell = [
        " ".join(f"{each.rpartition('#')[2]}:{outlines[outline(parts['verdicts'][each])]}" for each in called)
        for called in cells.values()
    ]
    result["verdicts"] |= {"outlines": list(outlines), "said": dict(zip(cells, said_by_cell, strict=True))}
    return result


def _digests(cells: Iterable[str], of_cell: Callable[[str], Document]) -> Document:
    found = {cell: checked(of_cell(cell)) for cell in cells}
    return {
        "digests": {cell: digest for cell, (digest, _) in found.items()},
        "checksums": {cell: number for cell, (_, number) in found.items() if number},
    }


def outline(document: Document) -> str:
    """Verdict, destination and reason codes in one line."""
    codes = " ".join(f"{reason['code']}:{reason['signal'] or ''}" for reason in document["reasons"])
    return f"{document['verdict']} {document['to_stage'] or '-'} {codes}"


def _replays(golden: Golden, recorded_rows: list[tuple[str, Document, bool]], names: dict[str, str]) -> Document:
    """Some verdicts reached again: the first of each kind of reasons."""
    first: dict[str, tuple[str, str]] = {}
    for called, document, _ in recorded_rows:
        kind = f"{document['verdict']} {document['reasons'][0]['code']} {document['is_regrade']}"
        first.setdefault(kind, (called, document["verdict_id"]))
    result = {}
    for called, verdict_id in list(first.values())[:12]:
        again = replay(golden.lake, verdict_id)
        numbers, *_ = parted(normal(again.document.to_dict(), names))
        result[called] = {
            "document": checked(numbers)[0],
            "outline": outline(again.document.to_dict()),
            "earlier": sorted(names[each] for each in again.earlier),
            "believed": sorted(names[each] for each in again.believed),
        }
    return result


def _history(name: str, golden: Golden) -> Document:
    """The lake's history under its gate file; for the demonstration, also where another file parts from it."""
    history, gates = History.from_lake(golden.lake), GateFile.parse(golden.gates)
    turns = [
        {"cell": _cell(VerdictDocument.from_verdict(turn.verdict).to_dict()), **_as_json(turn.to_dict())}
        for turn in run(history, gates, every=timedelta(minutes=30))
    ]
    section: Document = {"turns": _without_sentences(normal(sorted(turns, key=_turn), {}))}
    if name == "demo":
        since = history.last - timedelta(minutes=15)
        tried = backtest(history, gates, GateFile.parse(_changed(golden.gates)), since=since)
        section["backtest"] = _without_sentences(
            normal({key: value for key, value in _as_json(tried.to_dict()).items() if not key.endswith("_sha256")}, {})
        )
    return section


def _as_json(document: Document) -> Document:
    return dict(json.loads(json.dumps(document)))


def _turn(turn: Document) -> tuple[str, str]:
    return turn["at"], turn["cell"]


def _without_sentences(value: Any) -> Any:
    """Sentences of turns name verdicts that no ledger holds."""
    if isinstance(value, dict):
        return {key: _without_sentences(part) for key, part in value.items() if key not in {"message", "summary"}}
    return [_without_sentences(part) for part in value] if isinstance(value, list) else value


def _changed(gates: bytes) -> bytes:
    """The demonstration's gate file with other limits."""
    changed = gates.replace(
        b"signal: undo, role: guardrail, limit: 0.03", b"signal: undo, role: guardrail, limit: 0.15"
    )
    changed = changed.replace(b"minimum_exposure: {actions: 200}", b"minimum_exposure: {actions: 120}")
    if changed.count(b"0.15") != 1 or changed.count(b"120}") != 1:
        raise ValueError("the demonstration's gate file reads differently: change other limits here")
    return changed


def path_of(name: str) -> Path:
    """Where a lake's golden file is."""
    return FOLDER / f"{name}.json.gz"


def today(name: str) -> Document:
    """What today's code says of a lake."""
    with tempfile.TemporaryDirectory() as folder:
        return form(name, LAKES[name](Path(folder)))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> int:
    """Compare, show, or write anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lakes", nargs="*", default=list(LAKES), metavar="LAKE")
    parser.add_argument("--write", action="store_true", help="write the golden files anew")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only these parts of the files")
    parser.add_argument("--show", nargs=2, metavar=("LAKE", "CELL"), help="print one cell's verdicts")
    asked = parser.parse_args()
    if asked.show:
        name, cell = asked.show
        with tempfile.TemporaryDirectory() as folder:
            golden = LAKES[name](Path(folder))
            documents = [json.loads(text) for text in golden.lake.scan(VERDICTS).select("payload").collect()["payload"]]
        _say(json.dumps([each for each in documents if _cell(each) == cell], indent=1, ensure_ascii=False))
        return 0
    differing = 0
    for name in asked.lakes:
        if (why := missing(name)) is not None:
            _say(f"{name}: SKIPPED: {why}")
            continue
        new = today(name)
        old = read(path_of(name)) if path_of(name).is_file() else {}
        wanted = asked.section or SECTIONS
        for section in wanted:
            for line in differences(old.get(section), new.get(section), section):
                differing += 1
                _say(f"{name} {line}")
        if asked.write:
            write(path_of(name), {each: (new if each in wanted else old).get(each) for each in SECTIONS if each in new})
            _say(f"{name}: {path_of(name).stat().st_size:,} bytes")
    return int(differing > 0 and not asked.write)


if __name__ == "__main__":
    sys.exit(main())
