"""What is redacted can be found out from nothing that is recorded, stored or shown."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import Permit, Shelf, flag_evaluator
from pydantic import BaseModel, SecretStr

from producers.boundary import canonical_json
from producers.boundary.action import Action, acting
from producers.boundary.approvals import ApprovalMismatchError
from producers.boundary.canonical_json import ArgumentDigester, canonical
from producers.boundary.errors import RefusedError, ReviewRequiredError
from producers.boundary.review_store import ReviewStore
from producers.boundary.reviewers import Reviewer
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder
from producers.wire.contract import ActionContract, Reversibility, RiskClass
from producers.wire.events import ActionDecided, Resolution, event_from_bytes, event_to_bytes

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"a key for these tests"
PIN = "4711"
WORD = "open sesame"  # four digits may occur in an id by chance
ADA = Reviewer("ada", authenticated=True)


class Card(BaseModel):
    pin: str


@dataclass
class Holder:
    card: Card
    token: SecretStr


def an_action(redact: tuple[str, ...] = ("pin",)) -> Action:
    def set_pin(account: str, pin: Any) -> str:
        return account

    return Action(
        tool="set_pin",
        workflow="cards",
        system="bank",
        environment="production",
        risk_class=RiskClass.EXTERNAL_EFFECT,
        reversibility=Reversibility.MANUAL,
        run=set_pin,
        redact=frozenset(redact),
    )


def a_router(shelf: Shelf, key: bytes | None, reviews: ReviewStore | None = None, **flags: Any) -> Router:
    router = Router(
        authorizer=Permit(),
        flags=flag_evaluator(**flags),
        recorder=Recorder(shelf, source="/test", key=key),
        environment="production",
        agent="bot",
        reviews=reviews,
    )
    router.register(an_action())
    return router


def contract_of(shelf: Shelf) -> ActionContract:
    (decided,) = (event for event in shelf.events if isinstance(event, ActionDecided))
    return decided.data.contract


def tried_out(text: str, form: Any) -> list[str]:
    """The four-digit PINs whose digest, by whatever means need no key, stands in a text."""
    found = []
    for number in range(10_000):
        pin = f"{number:04d}"
        written = canonical(form(pin))
        digests = [hashlib.sha256(written).hexdigest()]
        digests += [hmac.new(key, written, "sha256").hexdigest() for key in (b"", b"stagekeeper")]
        if any(digest in text for digest in digests):
            found.append(pin)
    return found


@pytest.mark.parametrize("key", [KEY, None])
def test_a_redacted_pin_cannot_be_tried_out(tmp_path: Path, key: bytes | None) -> None:
    shelf = Shelf()
    with closing(ReviewStore(tmp_path / "reviews.db", key=key)) as store:
        router = a_router(shelf, key, store, approval=True)
        with pytest.raises(ReviewRequiredError) as caught:
            router.call(an_action(), "acct-1", PIN)
        store.resolve(caught.value.receipt.decision_id, Resolution.APPROVED, reviewer=ADA, rationale="fine")
        assert router.resume(caught.value.receipt, "acct-1", PIN) == "acct-1"
        queued = store.get(caught.value.receipt.decision_id).model_dump_json()
    events = "".join(event.model_dump_json() for event in shelf.events)
    assert tried_out(events + queued, lambda pin: {"account": "acct-1", "pin": pin}) == []
    assert f'"{PIN}"' not in events + queued
    said = contract_of(shelf)
    if key is None:
        assert not any(said.arguments_digest), "without a key nothing redacted is digested into an event"
    else:
        assert said.arguments_sha256 is None
        written = canonical({"account": "acct-1", "pin": PIN})
        assert said.arguments_hmac == hmac.new(KEY, written, "sha256").hexdigest()
        assert said.key_id == hmac.new(KEY, b"stagekeeper.key-id", "sha256").hexdigest()[:16]


@pytest.mark.parametrize(
    "pin",
    [
        SecretStr(WORD),
        [SecretStr(WORD)],
        {"deep": ({"er": SecretStr(WORD)},)},
        Holder(Card(pin="1"), SecretStr(WORD)),
    ],
)
def test_a_secret_is_redacted_though_no_name_says_so(pin: Any) -> None:
    shelf = Shelf()
    a_router(shelf, None).call(an_action(redact=()), "acct-1", pin)
    assert not any(contract_of(shelf).arguments_digest)
    assert WORD not in shelf.events[0].model_dump_json()


@pytest.mark.parametrize("pin", [PIN, 4711, None, 1.5, True, [1], {"a": (1, "b")}, Card(pin="1")])
def test_without_a_key_what_is_not_redacted_is_digested_as_ever(pin: Any) -> None:
    shelf = Shelf()
    a_router(shelf, None).call(an_action(redact=()), "acct-1", pin)
    said = contract_of(shelf)
    assert said.arguments_sha256 == hashlib.sha256(canonical({"account": "acct-1", "pin": pin})).hexdigest()
    assert said.arguments_hmac is said.key_id is None


def test_without_a_key_another_process_refuses_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(ReviewStore(tmp_path / "reviews.db")) as store:
        with pytest.raises(ReviewRequiredError) as caught:
            a_router(Shelf(), None, store, approval=True).call(an_action(), "acct-1", PIN)
        store.resolve(caught.value.receipt.decision_id, Resolution.APPROVED, reviewer="ada", rationale="fine")
        with monkeypatch.context() as another_process:
            another_process.setattr(canonical_json, "_PROCESS_KEY", b"another")
            another_process.setattr(canonical_json, "PROCESS_KEY_ID", "process-another")
            elsewhere = a_router(Shelf(), None, store, approval=True)
            with pytest.raises(ApprovalMismatchError, match="without STAGEKEEPER_RECEIPT_KEY only the process"):
                elsewhere.resume(caught.value.receipt, "acct-1", PIN)
        assert a_router(Shelf(), None, store, approval=True).resume(caught.value.receipt, "acct-1", PIN) == "acct-1"


def test_the_keys_of_two_routers_are_compared_by_their_names() -> None:
    one, other = (ArgumentDigester(key).digest({}, ()) for key in (KEY, b"another"))
    assert (one.key_id, one.arguments_hmac) != (other.key_id, other.arguments_hmac)
    assert KEY.hex() not in str(one)


@pytest.mark.parametrize("mode", ["autonomous", "observe", "off"])
def test_an_intent_can_be_redacted(tmp_path: Path, mode: str) -> None:
    shelf = Shelf()
    seen: list[str] = []

    class Watching(Permit):
        def authorize(self, contract: ActionContract) -> Any:
            seen.append(contract.intent)
            return super().authorize(contract)

    with closing(ReviewStore(tmp_path / "reviews.db", key=KEY)) as store:
        router = Router(
            authorizer=Watching(),
            flags=flag_evaluator(mode=mode, approval=True),
            recorder=Recorder(shelf, source="/test", key=KEY),
            environment="production",
            reviews=store,
        )
        with acting(intent=f"the customer says that the PIN is {WORD}"), suppress(RefusedError):
            router.call(an_action(redact=("pin", "intent")), "acct-1", WORD)
        waiting = "".join(review.model_dump_json() for review in store.waiting())
    assert contract_of(shelf).intent == "[redacted]"
    assert set(seen) == {"[redacted]"}
    assert WORD not in "".join(event.model_dump_json() for event in shelf.events) + waiting


def test_an_intent_that_nobody_gave_is_not_redacted() -> None:
    shelf = Shelf()
    a_router(shelf, KEY).call(an_action(redact=("intent",)), "acct-1", PIN)
    assert contract_of(shelf).intent == ""


def test_events_of_older_routers_are_still_read() -> None:
    shelf = Shelf()
    a_router(shelf, KEY).call(an_action(), "acct-1", PIN)
    document = json.loads(event_to_bytes(shelf.events[0]))
    contract = document["data"]["contract"]
    del contract["arguments_hmac"], contract["key_id"]
    contract["arguments_sha256"] = "a" * 64
    event = event_from_bytes(json.dumps(document).encode())
    assert isinstance(event, ActionDecided)
    assert event.data.contract.arguments_sha256 == "a" * 64
