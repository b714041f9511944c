"""`stagekeeper review`: the actions that wait for a person, and that person's decision."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from producers.boundary.review_store import ReviewStore
from producers.wire.events import Resolution
from producers.wire.receipt import Receipt
from stagekeeper.commands.options import actor_options, json_option, print_json
from stagekeeper.factory import recording
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from producers.boundary.approvals import Review
    from producers.delivery.recorder import Recorder


@click.group()
def command() -> None:
    """See the actions that wait for a person, and approve or reject them.

    An approval holds for one execution of exactly what `show` shows, under the same policy, until it expires.

    Exit code 0: done. 1: it cannot be: somebody was faster, it expired, or the store cannot be used. 2: usage, or no
    action with this id.

    \b
    Examples:
      stagekeeper review list
      stagekeeper review show 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11
      stagekeeper review approve 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --as ada@example.org --because "agreed by phone"
      stagekeeper review reject 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --as ada@example.org --because "wrong account"
    """


@command.command("list")
@json_option
def list_waiting(*, as_json: bool) -> None:
    """List the actions that wait, oldest first."""
    with ReviewStore(Settings.load().review_store) as store:
        waiting = store.waiting()
    if as_json:
        print_json([_document(review) for review in waiting])
        return
    if not waiting:
        click.echo("Nothing waits for a person.")
    for review in waiting:
        queued = review.queued
        action = f"{queued.contract.workflow} · {queued.contract.tool}"
        minutes = int((datetime.now(UTC) - queued.queued_at).total_seconds() // 60)
        waits = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        click.echo(f"{queued.decision_id}  {action}  {queued.rule}  waits {waits}")


@command.command()
@click.argument("decision_id")
@json_option
def show(decision_id: str, *, as_json: bool) -> None:
    """Show one queued action with everything a reviewer needs."""
    with ReviewStore(Settings.load().review_store) as store:
        review = store.get(decision_id)
    if as_json:
        print_json(_document(review))
        return
    for name, value in _facts(review):
        click.echo(f"{name + ':':<14}{value}")


@command.command()
@click.argument("decision_id")
@actor_options
def approve(decision_id: str, actor: str, reason: str) -> None:
    """Approve one execution of a queued action."""
    _resolve(decision_id, Resolution.APPROVED, reviewer=actor, rationale=reason)


@command.command()
@click.argument("decision_id")
@actor_options
def reject(decision_id: str, actor: str, reason: str) -> None:
    """Reject a queued action; the reason comes back to the agent."""
    _resolve(decision_id, Resolution.REJECTED, reviewer=actor, rationale=reason)


def _resolve(decision_id: str, resolution: Resolution, *, reviewer: str, rationale: str) -> None:
    settings = Settings.load()
    with ReviewStore(settings.review_store) as store, recording(settings, "/stagekeeper/review") as recorder:
        store.resolve(
            decision_id,
            resolution,
            reviewer=reviewer,
            rationale=rationale,
            record=lambda review: _record(recorder, review, settings.signing_key),
        )
    click.echo(f"{decision_id} is {resolution.value} by {reviewer}.")


def _record(recorder: Recorder, review: Review, key: bytes | None) -> None:
    """Put the resolution on this machine's disk as an event."""
    resolution = review.resolution
    if resolution is None:
        raise AssertionError("a resolved review has a resolution")
    recorder.review_resolved(
        Receipt.from_token(review.queued.receipt, key),
        resolution.resolution,
        reviewer=resolution.reviewer,
        rationale=resolution.rationale,
        wait_ms=(resolution.at - review.queued.queued_at).total_seconds() * 1000,
        at=resolution.at,
        durable=True,
    )


def _document(review: Review) -> dict[str, Any]:
    return review.model_dump(mode="json") | {"binding": review.queued.binding}


def _facts(review: Review) -> list[tuple[str, str]]:
    queued, contract, answer = review.queued, review.queued.contract, review.resolution
    facts: list[tuple[str, str | None]] = [
        ("decision", queued.decision_id),
        ("state", review.state.value),
        ("action", f"{contract.workflow} · {contract.tool}"),
        ("asked by", " for ".join(filter(None, [contract.actor.agent, contract.actor.user, contract.actor.account]))),
        ("intent", contract.intent or None),
        ("arguments", json.dumps(queued.arguments, ensure_ascii=False)),
        ("consequence", queued.consequence),
        ("target", f"{contract.target.system} {contract.target.record or ''} in {contract.target.environment}"),
        ("risk", f"{contract.risk_class.value}, reversibility {contract.reversibility.value}"),
        ("scope", contract.scope.model_dump_json(exclude_none=True)),
        ("evidence", contract.evidence.model_dump_json(exclude_none=True)),
        ("fallback", contract.fallback.note or contract.fallback.mode.value),
        ("rule", queued.rule),
        ("expires", queued.expires_at.isoformat()),
        ("binding", queued.binding),
        ("answer", None if answer is None else f"{answer.resolution.value} by {answer.reviewer}: {answer.rationale}"),
    ]
    return [(name, value) for name, value in facts if value]
