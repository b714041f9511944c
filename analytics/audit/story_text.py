"""A story as text, as Markdown for an incident report, and as a picture."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from analytics.text import amount, duration, iso, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from analytics.audit.blame import Blame
    from analytics.audit.story import Story, VerdictShown

# What is markup in CommonMark, and in the dialects that make links of bare addresses, and formulas between dollars.
_MARKUP: Final = re.compile(r"[\\`*_\[\]<>#|~&@$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_WIDTH: Final = 760
_ROW: Final = 74
_MOST_CHARACTERS: Final = 100  # of a line in the picture


class StoryStep(NamedTuple):
    """One step of a story."""

    at: datetime | None  # None where it has no moment of its own
    title: str
    lines: tuple[str, ...]
    is_missing: bool = False


def steps_of(story: Story) -> list[StoryStep]:
    """The steps of a story, in their order: what came before, the decision, what came of it, what is missing."""
    steps = [*_before(story), *_decision(story), *_after(story)]
    steps += [StoryStep(None, f"missing: {piece.piece}", (piece.why,), is_missing=True) for piece in story.missing]
    return steps


def to_text(story: Story) -> str:
    """A story for a terminal."""
    lines = [f"Decision {story.decision_id}", f"  {story.summary}", ""]
    for step in steps_of(story):
        at = " " * 27 if step.at is None else iso(step.at).ljust(27)
        lines.append(f"{at} {step.title}")
        lines += [f"{' ' * 28}  {line}" for line in step.lines]
    if story.is_whole:
        lines += ["", "Nothing is missing."]
    return "\n".join(map(printable, lines))


def to_markdown(story: Story) -> str:
    """A story for an incident report; nothing that an agent wrote becomes markup."""
    lines = [f"# Decision {_escaped(story.decision_id)}", "", _escaped(story.summary), ""]
    lines += ["| when | what | details |", "| --- | --- | --- |"]
    for step in steps_of(story):
        at = "" if step.at is None else iso(step.at)
        title = f"**{_escaped(step.title)}**" if step.is_missing else _escaped(step.title)
        lines.append(f"| {at} | {title} | {'<br>'.join(map(_escaped, step.lines))} |")
    lines += ["", "## Evidence", "", "| event | type | source | log |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {_escaped(event.id)} | {event.type} | {_escaped(event.source)} | "
        f"{event.topic} {event.partition} at {event.offset} |"
        for event in story.events
    ]
    return "\n".join(lines) + "\n"


def to_svg(story: Story) -> str:
    """A story as a picture: its steps from top to bottom, what is missing dashed."""
    steps = steps_of(story)
    height = 60 + _ROW * len(steps)
    opened = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" role="img">'
    )
    parts = [
        opened,
        f"<title>{_shown(story.summary)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="20" y="30" font-size="15" font-weight="bold" fill="#1f2328">{_shown(story.decision_id)}</text>',
    ]
    for number, step in enumerate(steps):
        top = 46 + _ROW * number
        dashes, colour = (' stroke-dasharray="5 4"', "#9a3412") if step.is_missing else ("", "#1f4e79")
        if number + 1 < len(steps):
            parts.append(f'<path d="M40 {top + 58}V{top + _ROW}" stroke="#8c959f" stroke-width="2"/>')
        parts.append(
            f'<rect x="20" y="{top}" width="{_WIDTH - 40}" height="58" rx="6" fill="none" stroke="{colour}"{dashes}/>'
        )
        at = "" if step.at is None else f"  {iso(step.at)}"
        parts.append(f'<text x="34" y="{top + 19}" font-weight="bold" fill="{colour}">{_shown(step.title + at)}</text>')
        parts += [
            f'<text x="34" y="{top + 35 + 15 * row}" fill="#1f2328">{_shown(line)}</text>'
            for row, line in enumerate(step.lines[:2])
        ]
    return "\n".join([*parts, "</svg>", ""])


def _before(story: Story) -> Iterator[StoryStep]:
    blame = story.blame
    if blame is not None:
        yield StoryStep(blame.at, f"policy change by {blame.changed_by}", tuple(_blamed(blame)))
    if story.verdict_then is not None:
        yield _verdict(story.verdict_then, "verdict at that moment")


def _blamed(blame: Blame) -> Iterator[str]:
    yield f"{blame.flag_key}: {blame.before or 'unknown'} → {blame.after or 'unknown'}, because {blame.reason}"
    if blame.recommendation is not None:
        yield f"on recommendation {blame.recommendation_id or blame.verdict_id}: {blame.recommendation}"
    elif (named := blame.recommendation_id or blame.verdict_id) is not None:
        yield f"on recommendation {named}, which the ledger does not hold"
    if blame.signoff is not None:
        yield f"signed off: {blame.signoff}"


def _verdict(verdict: VerdictShown, title: str) -> StoryStep:
    lines = [f"{verdict.verdict}: {verdict.summary}"]
    if verdict.confirmed_at is not None:
        lines.append(f"found again with this counted at {iso(verdict.confirmed_at)}")
    return StoryStep(verdict.judged_at, f"{title}, {verdict.verdict_id}", tuple(lines))


def _decision(story: Story) -> Iterator[StoryStep]:
    contract, decision = story.contract, story.decision
    if contract is None or decision is None:
        return
    actor, target = contract.actor, contract.target
    given = {"user": actor.user, "account": actor.account, "as": actor.service_identity, "model": actor.model}
    who = ", ".join([actor.agent, *(f"{name} {value}" for name, value in given.items() if value is not None)])
    record = "" if target.record is None else f" {target.record}"
    tool = f"{contract.workflow}/{contract.requested_tool or contract.tool}"
    risk = f"{contract.risk_class.value}, reversible: {contract.reversibility.value}"
    asked = [f"{who}: {contract.intent}", f"{tool} on {target.system}{record} in {target.environment}; {risk}"]
    if (digest := contract.arguments_hmac or contract.arguments_sha256) is not None:
        asked.append(f"arguments {digest}" + ("" if contract.key_id is None else f" under key {contract.key_id}"))
    yield StoryStep(story.decided_at, "asked", tuple(asked))
    result, authorization = decision.result, decision.authorization
    mode = "" if (name := getattr(result, "mode", None)) is None else f"({name})"
    why = [f"stage {story.stage}, cohort {story.cohort}, epoch {story.epoch}, attempt {story.attempt}"]
    if authorization is not None:
        answer = "permitted" if authorization.permitted else "refused"
        why.append(f"authorization {answer} by rule {authorization.rule}")
    for shown in story.flags:
        flag, changed = shown.evaluation, shown.changed
        by = "no recorded change" if changed is None else f"last changed by {changed.changed_by} at {iso(changed.at)}"
        why.append(f"flag {flag.key} = {flag.variant or flag.value} ({flag.reason.value}); {by}")
    if decision.ruleset_sha256 is not None:
        why.append(f"ruleset {decision.ruleset_sha256}")
    enforced = "" if decision.enforced else ", not enforced: only observed"
    yield StoryStep(
        story.decided_at, f"decided by {story.source}: {result.outcome}{mode}, {result.reason}{enforced}", tuple(why)
    )


def _after(story: Story) -> Iterator[StoryStep]:
    if (review := story.review) is not None:
        for earlier in review.earlier_approvals:
            yield StoryStep(earlier.at, f"approved by {earlier.reviewer}", (earlier.rationale,))
        waited = "" if review.wait_ms is None else f" after {duration(review.wait_ms / 1_000)}"
        known = {True: "", False: ", whom nobody authenticated", None: ""}[review.authenticated]
        yield StoryStep(review.at, f"{review.resolution} by {review.reviewer}{known}{waited}", (review.rationale,))
    for execution in story.executions:
        error = "" if execution.error_type is None else f" ({execution.error_type})"
        took, cost = amount(execution.latency_ms, "ms"), amount(execution.cost_usd, "usd")
        ran = f"ran {execution.ran}; latency {took}, cost {cost}"
        yield StoryStep(execution.at, f"execution {execution.status}{error}", (ran,))
    for undo in story.undos:
        yield StoryStep(undo.at, f"undo: {undo.result}", () if undo.reason is None else (undo.reason,))
    for shown in story.impacts:
        said = shown.impact.model_dump(exclude_none=True, exclude={"kind"})
        yield StoryStep(
            shown.at, f"impact: {shown.impact.kind}", (", ".join(f"{name} {value}" for name, value in said.items()),)
        )
    if story.counted_in is not None:
        yield _verdict(story.counted_in, "counted in verdict")


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", printable(text.replace("\n", " ")))


def _shown(text: str) -> str:
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
    return escape(printable(shown))
