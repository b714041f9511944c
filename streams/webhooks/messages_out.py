"""What receivers are sent: signed JSON after Standard Webhooks, or what Slack shows.

Source: standard-webhooks/standard-webhooks, `spec/standard-webhooks.md` (signature scheme `v1`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any, Final

from analytics.enactment.enactments import Life
from analytics.text import amount, iso
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from analytics.enactment.life_changes import LifeChange
    from analytics.verdicts.document import VerdictDocument
    from analytics.verdicts.evidence_models import SignalEvidence
    from streams.webhooks.endpoints import Endpoint

TYPE: Final = "stagekeeper.recommendation"
LONGEST_TEXT: Final = 1_000  # characters of one sentence; the whole stays below 20 kB, as the specification advises
MOST_NUMBERS: Final = 20  # signals of which the numbers are sent

_LIVES: Final = {
    Life.OPEN: "is recommended",
    Life.ACCEPTED: "was accepted",
    Life.DISMISSED: "was dismissed",
    Life.EXPIRED: "has expired: nobody answered",
    Life.SUPERSEDED: "is superseded",
    Life.APPLIED: "was applied",
    Life.NOT_IN_FORCE: "is NOT IN FORCE: a router still decides by the old stage",
    Life.IN_FORCE: "is in force",
}
_SLACK: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def signed(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature by each secret; `timestamp` is of this attempt, Unix seconds."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digests = (hmac.new(secret, content, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def body_of(endpoint: Endpoint, change: LifeChange, document: VerdictDocument | None, link: str | None) -> bytes:
    """The bytes that a receiver gets; the same at every attempt. `document` is None where the ledger has it no more."""
    make = _slack if endpoint.format == "slack" else _standard
    return json.dumps(make(change, document, link), ensure_ascii=False, separators=(",", ":")).encode()


def trial_body(endpoint: Endpoint, now: datetime) -> bytes:
    """The bytes of a message that says nothing but that it came."""
    text = f"Stagekeeper tries whether the endpoint {endpoint.name} can be reached."
    message: dict[str, Any] = {"text": text}
    if endpoint.format == "standard":
        message = {"type": "stagekeeper.trial", "timestamp": iso(now), "data": {"endpoint": endpoint.name}}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def headline(change: LifeChange) -> str:
    """What happened, in a sentence."""
    said = change.recommendation
    environment, workflow, tool, stage, cohort = said.cell
    move = "rollback" if said.verdict == VerdictName.ROLL_BACK else "promotion"
    segment = "" if cohort == "all" else f" ({cohort})"
    return f"{environment}/{workflow}/{tool}{segment}: the {move} from {stage} to {said.to_stage} {_LIVES[change.life]}"


def _standard(change: LifeChange, document: VerdictDocument | None, link: str | None) -> dict[str, Any]:
    said, step = change.recommendation, change.step
    data = {
        "recommendation_id": said.verdict_id,
        "life": change.life.value,
        "headline": _short(headline(change)),
        **said.to_dict(),
        "owner": None if document is None else document.owner,
        "gate": None if document is None else document.gate,
        "summary": None if document is None else _short(document.summary),
        "numbers": [] if document is None else [_numbers(part) for part in document.signals[:MOST_NUMBERS]],
        "sources": [] if step is None else list(step.sources[:MOST_NUMBERS]),
        "note": "" if step is None else _short(step.note),
        "link": link,
    }
    return {"type": f"{TYPE}.{change.life.name.lower()}", "timestamp": iso(change.at), "data": data}


def _numbers(part: SignalEvidence) -> dict[str, Any]:
    names = ("signal", "role", "state", "value", "limit", "unit", "lower", "upper", "failures", "trials")
    return {name: getattr(part, name) for name in names}


def _slack(change: LifeChange, document: VerdictDocument | None, link: str | None) -> dict[str, Any]:
    text = _short(headline(change))
    lines = [f"*{text.translate(_SLACK)}*"]
    if document is not None:
        lines.append(_short(document.summary).translate(_SLACK))
        lines += [f"• {_in_words(part)}" for part in _telling(document.signals)]
    if change.step is not None and change.step.sources:
        lines.append(f"routers: {', '.join(change.step.sources[:5])}".translate(_SLACK))
    if link is not None:
        lines.append(f"<{link}|Open the page>")
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(lines)[:2_900]}}]
    return {"text": text.translate(_SLACK), "blocks": blocks}


def _telling(signals: Sequence[SignalEvidence]) -> list[SignalEvidence]:
    """The five signals that say most: those that fail first."""
    ranked = ("fail", "undecided", "pass", "missing", "not_applicable")
    return sorted(signals, key=lambda part: ranked.index(part.state))[:5]


def _in_words(part: SignalEvidence) -> str:
    limit = "" if part.limit is None else f", limit {amount(part.limit, part.unit)}"
    among = f"{part.failures:,} of {part.trials:,}"
    return f"{part.signal}: {amount(part.value, part.unit)} ({among}){limit}".translate(_SLACK)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
