"""`stagekeeper impact`: report what an action led to."""

from __future__ import annotations

import click

from producers.errors import UsageError
from producers.wire.events import Impact, Incident, Quality, Support
from producers.wire.receipt import Receipt
from stagekeeper.commands.options import FiniteRange, RecordedText, json_option, print_json
from stagekeeper.factory import recording
from stagekeeper.find_receipt import find_receipt
from stagekeeper.settings import Settings

_NAME = RecordedText("name", 200)


@click.command()
@click.option("--decision", "decision_id", help="Id of the decision; its receipt is looked up.")
@click.option("--receipt", "token", help="The receipt, for whoever has it.")
@click.option("--incident", "severity", type=click.IntRange(1, 5), help="An incident of this severity; 1 is the worst.")
@click.option("--support", is_flag=True, help="A support signal: a ticket, a complaint, a call back.")
@click.option("--quality", type=click.Choice(["passed", "failed"]), help="A quality evaluation.")
@click.option("--reference", type=_NAME, help="Reference of the incident or ticket.")
@click.option("--score", type=FiniteRange(0, 1), help="Score of the evaluation.")
@click.option("--evaluator", type=_NAME, help="Who evaluated.")
@json_option
def command(  # noqa: PLR0917 - click passes them by name
    decision_id: str | None,
    token: str | None,
    severity: int | None,
    support: bool,  # noqa: FBT001 - click passes it by name
    quality: str | None,
    reference: str | None,
    score: float | None,
    evaluator: str | None,
    *,
    as_json: bool,
) -> None:
    """Report what an action led to: an incident, a support signal or a quality evaluation.

    The receipt of a decision is looked up by its id at this machine's review store and outbox, then in the lake. The
    report goes to disk first, and counts for the stage at which the action was decided.

    Exit code 0: reported. 2: usage, no such decision, or a receipt that is not ours.

    \b
    Examples:
      stagekeeper impact --decision 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --incident 2 --reference INC-42
      stagekeeper impact --decision 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --support --reference T-981
      stagekeeper impact --receipt sk1.WyJk... --quality failed --score 0.2 --evaluator nightly-eval
    """
    if (decision_id is None) is (token is None):
        raise UsageError("say which decision, by --decision or by --receipt")
    impacts: list[Impact] = []
    if severity is not None:
        impacts.append(Incident(severity=severity, reference=reference))
    if support:
        impacts.append(Support(reference=reference))
    if quality is not None:
        impacts.append(Quality(passed=quality == "passed", score=score, evaluator=evaluator))
    if len(impacts) != 1:
        raise UsageError("say what happened: exactly one of --incident, --support, --quality")
    if quality is None and (score is not None or evaluator is not None):
        raise UsageError("--score and --evaluator belong to --quality; nothing was reported")
    if quality is not None and reference is not None:
        raise UsageError("--reference belongs to --incident and --support; nothing was reported")
    settings = Settings.load()
    if token is not None:
        receipt = Receipt.from_token(token, settings.signing_key)
    else:
        receipt = find_receipt(decision_id or "", settings)
    with recording(settings, "/stagekeeper/impact") as recorder:
        recorder.impact(receipt, impacts[0], durable=True)
    if as_json:
        print_json({"decision_id": receipt.decision_id, "impact": impacts[0].model_dump(mode="json")})
        return
    cell = f"{receipt.workflow} · {receipt.tool} at {receipt.stage.value}"
    click.echo(f"Reported for decision {receipt.decision_id}: {cell}, decided {receipt.decided_at.isoformat()}.")
