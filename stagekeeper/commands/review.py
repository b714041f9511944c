"""`stagekeeper review`: the actions that wait for a person, and that person's decision."""

from __future__ import annotations

import json
import secrets
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from producers.boundary.reviewers import Reviewer, ReviewersFile, person_of, token_sha256
from producers.errors import UsageError
from producers.wire.events import Resolution
from stagekeeper.commands import CommandGroup
from stagekeeper.commands.options import RecordedText, actor_options, json_option, print_json, say
from stagekeeper.factory import open_review_store
from stagekeeper.review_words import approvals_in_words, resolve_review
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from producers.boundary.approvals import Review, ReviewError, ReviewResolution
    from producers.boundary.review_store import ReviewStore


@click.group(cls=CommandGroup)
def command() -> None:
    """See the actions that wait for a person, and approve or reject them.

    An approval holds for one execution of exactly what `show` shows, under the same policy, until it expires. Whoever
    asked cannot approve. Where the action has a user, or authorization asks for approvers, a name alone approves
    nothing: STAGEKEEPER_REVIEWER_TOKEN says who speaks, and `enrol` makes such a token.

    Exit code 0: done. 1: it cannot be: somebody was faster, it expired, a row was altered, or the store cannot be used.
    2: usage, or no action with this id.

    \b
    Examples:
      stagekeeper review list
      stagekeeper review show 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11
      stagekeeper review approve 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --as ada@example.org --because "agreed by phone"
      stagekeeper review enrol --as ada@example.org
      stagekeeper review reject 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --as ada@example.org --because "wrong account"
    """


@command.command("list")
@json_option
def list_waiting(*, as_json: bool) -> None:
    """List the actions that wait, oldest first.

    \b
    Examples:
      stagekeeper review list
      stagekeeper review list --json | jq '.[].decision_id'
    """
    refused: list[ReviewError] = []
    with _open_store(Settings.load()) as store:
        waiting = store.waiting(refused.append)
    for error in refused:
        say(f"Not listed: {error}", err=True)
    if as_json:
        print_json([_document(review) for review in waiting])
    elif not waiting:
        click.echo("Nothing waits for a person.")
    for review in waiting if not as_json else ():
        queued = review.queued
        action = f"{queued.contract.workflow} · {queued.contract.tool}"
        minutes = int((datetime.now(UTC) - queued.queued_at).total_seconds() // 60)
        waits = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        approvals = f"  {approvals_in_words(review)}" if queued.approvers is not None else ""
        say(f"{queued.decision_id}  {action}  {queued.rule}  waits {waits}{approvals}")
    if refused:
        sys.exit(1)


@command.command()
@click.argument("decision_id")
@json_option
def show(decision_id: str, *, as_json: bool) -> None:
    """Show one queued action with everything a reviewer needs.

    \b
    Examples:
      stagekeeper review show 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11
    """
    with _open_store(Settings.load()) as store:
        review = store.get(decision_id)
    if as_json:
        print_json(_document(review))
        return
    say(*(f"{name + ':':<14}{value}" for name, value in _facts(review)))


@command.command()
@click.argument("decision_id")
@actor_options
@json_option
def approve(decision_id: str, actor: str, reason: str, *, as_json: bool) -> None:
    """Approve one execution of a queued action.

    \b
    Examples:
      stagekeeper review approve 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --as ada@example.org --because "agreed by phone"
    """
    _resolve(decision_id, Resolution.APPROVED, reviewer=actor, rationale=reason, as_json=as_json)


@command.command()
@click.argument("decision_id")
@actor_options
@json_option
def reject(decision_id: str, actor: str, reason: str, *, as_json: bool) -> None:
    """Reject a queued action; the reason comes back to the agent.

    \b
    Examples:
      stagekeeper review reject 5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11 --as ada@example.org --because "wrong account"
    """
    _resolve(decision_id, Resolution.REJECTED, reviewer=actor, rationale=reason, as_json=as_json)


@command.command()
@click.option("--as", "name", type=RecordedText("who", 200), required=True, help="Who, e.g. an e-mail address.")
def enrol(name: str) -> None:
    """Draw a token for a reviewer, and print the lines for the reviewers file.

    The token is shown once, for that person alone; the file holds only its digest, and is written by whoever may say
    who reviews.

    \b
    Examples:
      stagekeeper review enrol --as ada@example.org
    """
    token = secrets.token_urlsafe(32)
    click.echo(f"# Below `version: 1` and `reviewers:` in {Settings.load().reviewers}:")
    click.echo(f"  - name: {json.dumps(name, ensure_ascii=False)}\n    token_sha256: {token_sha256(token)}")
    click.echo(f"The token of {name}, shown this once: STAGEKEEPER_REVIEWER_TOKEN={token}", err=True)


def _open_store(settings: Settings) -> ReviewStore:
    store = open_review_store(settings)
    if not store.is_protected:
        unprotected = f"The rows of {store.name} are unprotected: whoever can write there can approve."
        click.echo(f"{unprotected} Set STAGEKEEPER_RECEIPT_KEY for routers and reviewers.", err=True)
    return store


def _reviewer(settings: Settings, name: str) -> Reviewer:
    """Who speaks: by a token, or a mere name."""
    token = settings.reviewer_token.get_secret_value() if settings.reviewer_token is not None else ""
    if not token:
        return Reviewer(name)
    reviewer = ReviewersFile.load(settings.reviewers).authenticate(token)
    if person_of(reviewer.name) != person_of(name):
        raise UsageError(f"STAGEKEEPER_REVIEWER_TOKEN is the token of {reviewer.name}, not of {name}")
    return reviewer


def _resolve(decision_id: str, resolution: Resolution, *, reviewer: str, rationale: str, as_json: bool) -> None:
    settings = Settings.load()
    person = _reviewer(settings, reviewer)
    with _open_store(settings) as store:
        review = resolve_review(store, settings, decision_id, resolution, reviewer=person, rationale=rationale)
    if as_json:
        print_json(_document(review))
    elif review.resolution is None:
        click.echo(f"{decision_id} has {approvals_in_words(review)}, and waits for the rest.")
    else:
        unchecked = "" if person.authenticated else " (a name that nobody has checked)"
        click.echo(f"{decision_id} is {resolution.value} by {person.name}{unchecked}.")


def _document(review: Review) -> dict[str, Any]:
    resolution = None if review.resolution is None else review.resolution.model_dump(mode="json")
    return review.model_dump(mode="json") | {"resolution": resolution, "binding": review.queued.binding}


def _facts(review: Review) -> list[tuple[str, str]]:
    queued, contract = review.queued, review.queued.contract
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
        ("approvals", None if queued.approvers is None else approvals_in_words(review)),
        *(("answer", f"{_word(word)}: {word.rationale}") for word in review.words),
    ]
    return [(name, value) for name, value in facts if value]


def _word(word: ReviewResolution) -> str:
    return f"{word.resolution.value} by {word.reviewer}{'' if word.authenticated else ' (name not checked)'}"
