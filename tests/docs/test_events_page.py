"""A router in another language can be written from docs/events.md: here is one, in plain standard library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from decoding import DecodedEvent, decode_one
from documents import ROOT, blocks

from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.events import EVENT_CLASSES, HEADERS, ActionDecided, event_to_bytes, type_of
from producers.wire.examples import EXAMPLES, RECEIPT, SIGNING_KEY
from producers.wire.receipt import ATTEMPT_KEY, SWITCHES, Receipt, epoch_of
from producers.wire.stage import Stage
from producers.wire.topics import MAX_EVENT_BYTES, TOPICS
from streams.ingest import decode, faults

PAGE = ROOT / "docs" / "events.md"
TEXT = PAGE.read_text(encoding="utf-8")
NOW = datetime(2026, 3, 2, 13, 0, tzinfo=UTC)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().replace("=", "")


def token_of(fields: list[str], key: bytes | None) -> str:
    """Steps 1 to 4 of the page."""
    unsigned = "sk1." + base64url(json.dumps(fields).encode("utf-8"))
    if key is None:
        return unsigned
    return unsigned + "." + base64url(hmac.new(key, unsigned.encode("ascii"), hashlib.sha256).digest())


def epoch(stage: str, model: str | None, prompt: str | None, tool: str | None, flags: dict[str, str]) -> str:
    """The epoch's recipe on the page."""
    variants = [[key, flags[key]] for key in sorted(flags)]
    shape = json.dumps([stage, model, prompt, tool, variants], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(shape.encode("utf-8")).hexdigest()[:12]


def test_each_example_is_the_one_that_is_published() -> None:
    shown = [json.loads(block) for block in blocks(PAGE, "json")]
    assert len(shown) == len(EVENT_CLASSES)
    for event_class, document in zip(EVENT_CLASSES, shown, strict=True):
        whole = json.loads(event_to_bytes(EXAMPLES[event_class]).decode().replace(RECEIPT.token(), "sk1.…"))
        assert document in (whole, whole["data"]), event_class
        assert f"`{type_of(event_class)}`" in TEXT


def test_the_test_vector_is_what_the_recipe_and_the_library_make() -> None:
    vector, shape = (block.strip().splitlines() for block in blocks(PAGE, "text"))
    array, unsigned, key, signed = vector
    assert base64url(array.encode()) == unsigned.removeprefix("sk1.")
    mac = hmac.new(key.encode("ascii"), unsigned.encode("ascii"), hashlib.sha256).digest()
    assert signed == f"{unsigned}.{base64url(mac)}"
    assert (unsigned, key.encode(), signed) == (RECEIPT.token(), SIGNING_KEY, RECEIPT.token(SIGNING_KEY))
    assert Receipt.from_token(signed, key.encode()) == RECEIPT
    assert hashlib.sha256(shape[0].encode()).hexdigest()[:12] == shape[1] == RECEIPT.epoch == json.loads(array)[-1]
    assert hashlib.sha256(shape[2].encode()).hexdigest()[:12] == shape[3]
    example = EXAMPLES[ActionDecided]
    assert isinstance(example, ActionDecided)
    contract, decision = example.data.contract, example.data.decision
    second = FlagEvaluation(key=ATTEMPT_KEY, value="2", reason=FlagReason.STATIC)
    made = Receipt.from_decision(
        contract,
        decision.model_copy(update={"flags": (*decision.flags, second)}),
        stage=RECEIPT.stage,
        cohort="all",
        decision_id=RECEIPT.decision_id,
        decided_at=RECEIPT.decided_at,
    )
    assert (made.epoch, made.attempt) == (shape[3], 2)


@pytest.mark.parametrize("model", ["large-2026-02", None, 'größer "1"'])
def test_the_epochs_recipe_is_the_librarys(model: str | None) -> None:
    flags = {"b-flag": "on", "a-flag": "", "ä-flag": "off"}
    evaluated = [
        FlagEvaluation(key=key, variant=variant or None, reason=FlagReason.STATIC) for key, variant in flags.items()
    ]
    switches = [FlagEvaluation(key=key, variant="on", reason=FlagReason.STATIC) for key in SWITCHES]
    made = epoch_of(Stage.DRAFT_WRITE, model=model, tool_version="2", flags=[*evaluated, *switches])
    assert made == epoch("draft_write", model, None, "2", flags)
    assert all(f"`{key}`" in TEXT for key in SWITCHES), "the page must name what is left out"


@pytest.mark.parametrize("key", [None, b"shared"])
def test_a_router_written_from_the_page_is_understood(key: bytes | None) -> None:
    decided_at = "2026-03-02T14:00:00+02:00"
    which = epoch("narrow_autonomy", None, None, None, {})
    token = token_of(["d-1", decided_at, "prod", "größe", "tool", "narrow_autonomy", "all", which], key)
    envelope: dict[str, Any] = {"specversion": "1.0", "source": "/routers/other", "subject": "d-1", "time": decided_at}
    contract = {
        "actor": {"agent": "a"},
        "intent": "why",
        "target": {"environment": "prod", "system": "s"},
        "tool": "tool",
        "workflow": "größe",
        "risk_class": "external_effect",
        "reversibility": "none",
    }
    decision = {"result": {"outcome": "allow"}}
    decided = {
        **envelope,
        "id": "e-1",
        "type": "stagekeeper.action.decided.v1",
        "data": {"receipt": token, "contract": contract, "decision": decision},
    }
    executed = {
        **envelope,
        "id": "e-2",
        "type": "stagekeeper.action.executed.v1",
        "data": {"receipt": token, "status": "succeeded"},
    }
    for event in (decided, executed):
        read = decode_one(json.dumps(event).encode(), key, decode.latest_possible(NOW))
        assert isinstance(read, DecodedEvent), read
        assert read.cell is not None
        assert read.cell[:5] == ("prod", "größe", "tool", "narrow_autonomy", "all")
        assert read.decided_at_us == decode.micros_of(datetime(2026, 3, 2, 12, 0, tzinfo=UTC))


def test_the_topics_are_those_that_are_created() -> None:
    rows = re.findall(r"^\| `(agent\.[\w-]+)` \| (.+?) \| (.+?) \| (\d+) \|$", TEXT, re.MULTILINE)
    keys = {topic.name: topic.key for topic in TOPICS}
    assert [(name, int(partitions)) for name, _, _, partitions in rows] == [
        (topic.name, topic.partitions) for topic in TOPICS
    ]
    for name, carried, key, _ in rows:
        assert key.strip("`") in keys[name]
        expected = [type_of(each).removeprefix("stagekeeper.")[:-3] for each in EVENT_CLASSES if each.topic == name]
        assert re.findall(r"`([a-z]+\.[a-z]+)`", carried) == expected


def test_headers_and_limits_are_as_stated() -> None:
    assert f"`content-type: {dict(HEADERS)['content-type'].decode()}`" in TEXT
    assert f"{MAX_EVENT_BYTES:,} bytes" in TEXT
    assert f"nested deeper than {faults.MAX_DEPTH} levels" in TEXT
    assert timedelta(minutes=5) == decode.AHEAD_LIMIT
    assert "five minutes ahead" in TEXT


def test_every_reason_code_is_explained() -> None:
    table = TEXT.partition("## Rejected")[2]
    explained = {
        code for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    assert explained == set(re.findall(r"`([a-z]+_[a-z_]+)`", faults.__doc__ or ""))
