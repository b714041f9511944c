"""Alert rules and the dashboard in deploy/, against Prometheus's own checker and the metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from documents import ROOT

from analytics.audit.numbering import NumberGap
from producers.wire.events import VerdictName
from producers.wire.receipt import Cell
from streams.control.cell_metrics import CellMetrics, ShownSignal, ShownVerdict
from streams.control.number_watch import missing_lines
from streams.metrics import Enacting, Freshness, Totals, exposition
from streams.webhooks.dispatcher import ReceiverState, webhook_lines

if TYPE_CHECKING:
    from pathlib import Path

RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "stagekeeper.json"
NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
SENT = Counter({("payments", "delivered"): 1})
NAME = re.compile(r"\bstagekeeper_\w+")


def everything() -> str:
    """What a worker says that reads, judges and enacts, every number known."""
    cell = Cell("production", "refunds", "issue_refund", "draft_write", "all")
    signal = ShownSignal("undo", "guardrail", "ratio", 0.5, 0.1, 1.0, 3.0, 1.0, 3.0)
    cells = CellMetrics(
        {cell: ShownVerdict(VerdictName.HOLD, (signal,), "g", 1)}, {cell: NOW}, reviews=1, oldest_review_at=NOW
    )
    return exposition(
        Totals(read=1, rejects=1, reasons={"not_json": 1}, lag=1),
        Freshness(0.5, 1.0, NOW),
        up_s=1.0,
        judging=True,
        judge_fault=False,
        now=NOW,
        enacting=Enacting(is_holder=True, lives={"open": 1}, seconds_to_apply=(1.0,), seconds_to_force=(1.0,)),
        more=[
            *cells.lines(NOW),
            *missing_lines([NumberGap("/router", "i", 1, ((1, 1),), NOW)]),
            *webhook_lines({"payments": ReceiverState(NOW, set(), waiting=1, oldest_at=NOW)}, SENT, NOW),
        ],
    )


def exported() -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in everything().splitlines() if not line.startswith("#")}


def expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    variables = [one["query"]["query"] for one in dashboard["templating"]["list"] if isinstance(one["query"], dict)]
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [*panels, *variables, *(rule["expr"] for group in rules for rule in group["rules"])]


def promtool(*arguments: str, text: str | None = None) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus): rules and metrics are not checked")
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_in_rules_and_dashboard_is_exported_and_each_expression_names_one() -> None:
    assert all(NAME.search(expression) for expression in expressions())
    assert {name for expression in expressions() for name in NAME.findall(expression)} <= exported()


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    families = {name.removesuffix("_sum").removesuffix("_count") for name in exported()}
    assert set(re.findall(r"^\| `(stagekeeper_\w+)`", page, re.MULTILINE)) == families


def test_every_panel_has_its_place() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_prometheus_reads_the_rules_and_the_metrics() -> None:
    promtool("check", "rules", "--lint-fatal", str(RULES))
    promtool("check", "metrics", text=everything())


def test_the_alerts_fire_when_they_should_and_else_do_not(tmp_path: Path) -> None:
    harm = 'stagekeeper_signal_harm_ratio{workflow="w",tool="t",stage="s",signal="undo",role="guardrail",unit="ratio"}'
    series = {
        "stagekeeper_judging": "1+0x20 0+0x20",
        "stagekeeper_enacting": "1+0x20 0+0x20",
        "stagekeeper_judge_fault": "0+0x20 1+0x20",
        "stagekeeper_enactor_fault": "0+0x20 1+0x20",
        "stagekeeper_changes_not_in_force": "0+0x20 2+0x20",
        "stagekeeper_reviews_oldest_seconds": "60+0x20 20000+0x20",
        "stagekeeper_evidence_age_seconds": "5+0x20 2000+0x20",
        "stagekeeper_lag_records": "5+0x20 20000+1000x20",
        "stagekeeper_events_read_total": "0+100x40",
        "stagekeeper_rejects_total": "0+0x20 0+50x20",
        harm: "0.2+0x20 0.9+0x20",
        'stagekeeper_webhooks_oldest_seconds{endpoint="payments"}': "0+0x20 700+0x20",
        'stagekeeper_events_missing_by_source{source="/router"}': "0+0x20 3+0x20",
        "stagekeeper_cells_left_out": "0+0x100",
    }
    names = [rule["alert"] for rule in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]]
    silent = {"StagekeeperCellsLeftOut"}
    look = "count by (alertname) (ALERTS{alertstate='firing'})"

    def firing(names: set[str]) -> list[dict[str, Any]]:
        return [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]

    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": look, "eval_time": "19m", "exp_samples": []},
                    {"expr": look, "eval_time": "36m", "exp_samples": firing(set(names) - silent)},
                ],
            }
        ],
    }
    path = tmp_path / "alerts_test.yaml"
    path.write_text(yaml.safe_dump(case))
    promtool("test", "rules", str(path))
