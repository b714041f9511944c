"""`stagekeeper simulate`: emit simulated traffic with a known ground truth."""

from __future__ import annotations

import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import click

from producers.boundary.flags import FlagEvaluator
from producers.delivery.kafka_emitter import KafkaEmitter
from producers.delivery.recorder import system_clock
from producers.errors import UsageError
from producers.simulation.flagged_stages import FlaggedStages, write_flags
from producers.simulation.ground_truth import GroundTruth, write_ground_truth
from producers.simulation.scenarios import SCENARIOS, Scenario, scenario
from producers.simulation.simulator import Faults, Simulator, TrafficPlan
from stagekeeper.commands.options import Duration, FiniteRange, json_option, print_json
from stagekeeper.settings import Settings
from streams.broker import ensure_topics

LIVE_RATE = 50.0  # events a second when neither a rate nor a number of events is asked for
WINDOW = timedelta(hours=2)  # how far back a finite run reaches by default: long enough for late undos
_WRITE_EVERY_S = 2.0


@click.command()
@click.option("--scenario", "name", default="demo", show_default=True, help="What to simulate; see --list.")
@click.option("--rate", type=FiniteRange(min=0), help="Events a second; 0 is as fast as possible.")
@click.option("--events", type=click.IntRange(min=1), help="Emit so many past events and end; else go on live.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides everything that is drawn.")
@click.option("--backfill", type=Duration(), help="How far back the first event lies, for example 2h.")
@click.option("--backfill-events", type=click.IntRange(min=1), help="Events in the backfill of a live run.")
@click.option("--repeats", type=FiniteRange(0, 1), default=0.0, help="Share of events sent twice.")
@click.option("--malformed", type=FiniteRange(0, 1), default=0.0, help="Broken records, as a share of events.")
@click.option("--shuffle", type=Duration(), default="0s", help="Hold events back by up to this long, at random.")
@click.option(
    "--truth",
    "truth_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the ground truth.  [default: <home>/simulations/SCENARIO-seed-SEED.json]",
)
@click.option(
    "--flags",
    "flag_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take stages from this flag file, which is written where it is missing.",
)
@click.option("--list", "listing", is_flag=True, help="List the scenarios, what is wrong in each, and its verdicts.")
@json_option
def command(
    *,
    name: str,
    rate: float | None,
    events: int | None,
    seed: int,
    backfill: timedelta | None,
    backfill_events: int | None,
    repeats: float,
    malformed: float,
    shuffle: timedelta,
    truth_file: Path | None,
    flag_path: Path | None,
    listing: bool,
    as_json: bool,
) -> None:
    """Emit simulated traffic with a known ground truth.

    With --events the run is finite: exactly that many events, their times spread over the past two hours (or
    --backfill), sent at --rate (default: as fast as possible). Without --events it is live: first the --backfill, if
    any, then --rate events a second (default 50) until SIGINT or SIGTERM.

    With --flags actions take their stage from a flag file, so that a change of stage changes what they may do.

    The ground truth (a file, also --json) counts what was really emitted: events by type, repeats, broken records by
    reason, records delivered, and for every cell each counter, the executions with known latency and cost, and the
    verdict that the cell deserves. The file is rewritten every two seconds; `finished` turns true at the end.

    \b
    Examples:
      stagekeeper simulate --list
      stagekeeper simulate --scenario slow --events 5000 --seed 7 --truth truth.json
      stagekeeper simulate --scenario demo --rate 40 --backfill 2h
      stagekeeper simulate --scenario healthy --events 20000 --repeats 0.03 --malformed 0.001 --shuffle 10m
    """
    if listing:
        _list(as_json=as_json)
        return
    chosen = scenario(name)
    plan = plan_of(rate=rate, events=events, backfill=backfill, backfill_events=backfill_events)
    settings = Settings.load()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    bootstrap_servers = settings.require_kafka()
    ensure_topics(bootstrap_servers, settings.kafka_security)
    emitter = KafkaEmitter(bootstrap_servers, client_id="stagekeeper-simulator", settings=settings.kafka_security)
    truth_file = truth_file or settings.home / "simulations" / f"{name}-seed-{seed}.json"
    truth_file.parent.mkdir(parents=True, exist_ok=True)
    observer = _Observer(emitter, truth_file)
    if flag_path is not None and not flag_path.exists():
        write_flags(flag_path, chosen)
    evaluator = None if flag_path is None else FlagEvaluator.from_file(flag_path)
    simulator = Simulator(
        chosen,
        emitter,
        plan=plan,
        seed=seed,
        key=settings.signing_key,
        faults=Faults(repeats, malformed, shuffle),
        now=system_clock,
        wait=stop.wait,
        observe=observer,
        flags=None if evaluator is None else FlaggedStages(evaluator),
    )
    try:
        truth = simulator.run()
    finally:
        if evaluator is not None:
            evaluator.close()
        emitter.close(15.0)
        document = observer.write(simulator.ground_truth, finished=True)
    if as_json:
        print_json(document)
    else:
        click.echo(_summary(truth, document))
    click.echo(f"[simulate] the ground truth is in {truth_file}", err=True)
    emitter.stats.require_all()


class _Observer:
    """Reports progress on stderr and keeps the truth file fresh."""

    def __init__(self, emitter: KafkaEmitter, truth_file: Path) -> None:
        self._emitter, self._truth_file = emitter, truth_file
        self._began_s = self._written_s = time.monotonic()

    def __call__(self, simulator: Simulator) -> None:
        now_s = time.monotonic()
        if now_s - self._written_s < _WRITE_EVERY_S:
            return
        self._written_s = now_s
        self.write(simulator.ground_truth, finished=False)
        emitted, delivered = simulator.ground_truth.emitted, self._emitter.stats.delivered
        rate = emitted / (now_s - self._began_s)
        click.echo(f"[simulate] {emitted:,} events, {delivered:,} records delivered, {rate:,.0f} events/s", err=True)

    def write(self, ground_truth: GroundTruth, *, finished: bool) -> dict[str, object]:
        document = ground_truth.to_dict(self._emitter.stats, at=system_clock(), finished=finished)
        write_ground_truth(self._truth_file, document)
        return document


def plan_of(
    *, rate: float | None, events: int | None, backfill: timedelta | None, backfill_events: int | None
) -> TrafficPlan:
    """Turn the options into a plan: finite and past with a number of events, else live. Raises `UsageError`."""
    if events is not None:
        if backfill_events is not None:
            raise UsageError("--backfill-events belongs to a live run; a run with --events lies in the past entirely.")
        return TrafficPlan(events=events, history=backfill or WINDOW, history_events=events, pace=rate or 0.0)
    if rate == 0:
        raise UsageError("--rate 0 has no end without --events N.")
    live = rate or LIVE_RATE
    if backfill is None:
        if backfill_events is not None:
            raise UsageError("--backfill-events needs --backfill DURATION, for example --backfill 2h.")
        return TrafficPlan(rate=live)
    history_events = backfill_events or round(backfill.total_seconds() * live)
    return TrafficPlan(rate=live, history=backfill, history_events=history_events)


def _list(*, as_json: bool) -> None:
    if as_json:
        print_json([{"name": one.name, "wrong": one.wrong, "actions": _phases(one)} for one in SCENARIOS.values()])
        return
    for one in SCENARIOS.values():
        click.echo(f"{one.name}\n  {one.wrong}")
        for phase in _phases(one):
            cell = f"{phase['workflow']}/{phase['tool']} at {phase['stage']}"
            click.echo(f"    {cell:<48} {phase['expected'] or 'depends':<10} {phase['why']}")


def _phases(one: Scenario) -> list[dict[str, str | int | None]]:
    return [
        {
            "workflow": action.workflow,
            "tool": action.tool,
            "stage": phase.stage.value,
            "after_decisions": phase.after,
            "expected": None if phase.expected is None else phase.expected.value,
            "why": phase.why,
        }
        for action in one.actions
        for phase in action.phases
    ]


def _summary(ground_truth: GroundTruth, document: dict[str, object]) -> str:
    heading = (
        f"scenario {ground_truth.scenario}, seed {ground_truth.seed}: {ground_truth.emitted:,} events "
        f"({document['delivered']:,} records delivered, {ground_truth.repeats:,} repeats, "
        f"{ground_truth.malformed.total():,} broken)\n"
        f"{'workflow/tool':<28} {'stage':<22} {'decisions':>9} {'denied':>7} {'executed':>9} {'failed':>7} "
        f"{'undone':>7}  deserves"
    )
    lines = [heading]
    for cell, counted in sorted(ground_truth.cells.items()):
        counts = counted.counts
        lines.append(
            f"{cell.workflow + '/' + cell.tool:<28} {cell.stage:<22} {counts['decisions']:>9,} {counts['denied']:>7,} "
            f"{counts['executed']:>9,} {counts['failed']:>7,} {counts['undone']:>7,}  {counted.expected or '-'}"
        )
    return "\n".join(lines)
