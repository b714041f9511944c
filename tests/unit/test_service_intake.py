from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeEmitter
from service_cases import KEY, Service, asked, contract, running_service

from producers.delivery.recorder import Recorder
from producers.wire.contract import ActionContract
from producers.wire.decision import Allow, Decision
from producers.wire.events import (
    ActionImpact,
    EventRecord,
    ExecutionStatus,
    PolicyChanged,
    ReviewResolved,
    event_to_bytes,
)
from producers.wire.examples import EXAMPLES
from producers.wire.stage import Stage
from stagekeeper.api.event_sources import MOST_AHEAD

if TYPE_CHECKING:
    from pathlib import Path

    from producers.wire.events import Event

INCIDENT = {"kind": "incident", "severity": 2, "reference": "INC-42"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def foreign(agent: str = "support-bot", key: bytes | None = KEY.encode()) -> list[Event]:
    """A decision and its execution, recorded by a router of its own."""
    emitter = FakeEmitter()
    recorder = Recorder(emitter, source="/routers/go", key=key)
    receipt = recorder.decided(
        ActionContract.model_validate(contract(actor={"agent": agent})),
        Decision(result=Allow()),
        stage=Stage.NARROW_AUTONOMY,
        traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
    )
    recorder.executed(receipt, ExecutionStatus.SUCCEEDED)
    return emitter.events


def document(event: Event) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(event_to_bytes(event))
    return loaded


async def test_an_impact_is_reported_by_decision_receipt_or_trace_and_counts_once(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        answer = (await service.post("/v1/decisions", asked())).json()
        for named in ({"decision_id": answer["decision_id"]}, {"receipt": answer["receipt"]}):
            reported = await service.post("/v1/impacts", {**named, "impact": INCIDENT}, by="tickets")
            assert reported.status_code == 200, reported.text
        assert reported.json()["recorded"] is False, "the same incident"
        other = {"decision_id": answer["decision_id"], "impact": {"kind": "support"}}
        assert (await service.post("/v1/impacts", other, by="tickets")).json()["recorded"] is True
        anothers = await service.post("/v1/impacts", other, by="other")
        assert anothers.status_code == 403
        unnamed = await service.post("/v1/impacts", {"impact": INCIDENT}, by="tickets")
        assert unnamed.status_code == 422
        forged = {"receipt": answer["receipt"][:-2], "impact": INCIDENT}
        assert (await service.post("/v1/impacts", forged, by="tickets")).json()["code"] == "unusable_receipt"
        assert len([event for event in await service.events() if isinstance(event, ActionImpact)]) == 2
        unknown = await service.post("/v1/impacts", {"trace_id": TRACE, "impact": INCIDENT}, by="tickets")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_one_decision")


@pytest.mark.parametrize("mode", ["structured", "binary", "batch"])
async def test_events_of_a_router_without_kafka_are_taken_in_as_published(tmp_path: Path, mode: str) -> None:
    async with running_service(tmp_path) as service:
        events = foreign()
        if mode == "batch":
            bodies = [([document(event) for event in events], {"content-type": "application/cloudevents-batch+json"})]
        elif mode == "structured":
            bodies = [(document(event), {"content-type": "application/cloudevents+json"}) for event in events]
        else:
            bodies = []
            for event in events:
                whole = document(event)
                headers = {f"ce-{name}": value for name, value in whole.items() if isinstance(value, str)}
                bodies.append((whole["data"], {"content-type": "application/json", **headers}))
        for body, headers in bodies:
            taken = await service.client.post(
                "/v1/events", content=json.dumps(body), headers=service.headers("bot", **headers)
            )
            assert taken.status_code == 202, taken.text
        assert await service.events() == events


@pytest.mark.parametrize(
    ("events", "by", "status", "code"),
    [
        (foreign(agent="other-bot"), "bot", 403, "another_agent"),
        (foreign(key=None), "bot", 422, "not_an_event"),
        (foreign(key=b"another key"), "bot", 422, "not_an_event"),
        (foreign(), "tickets", 403, "missing_scope"),
        (foreign(), "ada", 403, "missing_scope"),
        (
            [EXAMPLES[PolicyChanged]],
            "bot",
            403,
            "event_type_not_accepted",
        ),
        (
            [EXAMPLES[ReviewResolved]],
            "bot",
            403,
            "event_type_not_accepted",
        ),
    ],
)
async def test_nobody_reports_for_another_and_nothing_of_a_bad_batch_is_kept(
    tmp_path: Path, events: list[Event], by: str, status: int, code: str
) -> None:
    assert events
    async with running_service(tmp_path) as service:
        batch = [*map(document, foreign())] if by == "bot" else []
        refused = await service.client.post(
            "/v1/events",
            content=json.dumps([*batch, *map(document, events)]),
            headers=service.headers(by, **{"content-type": "application/cloudevents-batch+json"}),
        )
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert await service.events() == []


async def send(service: Service, *events: dict[str, Any], by: str = "bot") -> tuple[int, str | None]:
    headers = service.headers(by, **{"content-type": "application/cloudevents-batch+json"})
    answer = await service.client.post("/v1/events", content=json.dumps(events), headers=headers)
    return answer.status_code, answer.json().get("code")


async def test_a_source_is_who_first_sends_under_it(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        decided, executed = map(document, foreign())
        for own in ("/stagekeeper/service", "/stagekeeper/judge", "/service/test"):
            assert await send(service, {**executed, "source": own}, by="tickets") == (403, "reserved_source")
        assert await send(service, decided) == (202, None)
        assert await send(service, executed, by="twin") == (202, None)
        assert await send(service, executed, by="tickets") == (403, "another_source")
        own = {**executed, "source": "/helpdesk", "id": "e-9"}
        assert await send(service, own, executed, by="tickets") == (403, "another_source")
        assert await send(service, own) == (202, None), "what was refused claims no source"
        assert await send(service, own, by="tickets") == (403, "another_source")
        assert len(await service.events()) == 3
        tokens = service.tokens
    async with running_service(tmp_path, tokens=tokens) as service:
        assert await send(service, executed, by="tickets") == (403, "another_source")


async def test_many_who_are_first_at_once_are_one(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        executed = document(foreign()[1])
        answers = await asyncio.gather(*(send(service, executed, by=by) for by in ("bot", "tickets")))
        assert sorted(status for status, _ in answers) == [202, 403]


async def test_record_numbers_do_not_run_away(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        executed = document(foreign()[1])

        async def numbered(*numbers: str) -> tuple[int, str | None]:
            return await send(service, *({**executed, "recordnumber": number} for number in numbers))

        too_high = (422, "number_too_high")
        assert await numbered("deadbeef.900000000000000000") == too_high
        assert await numbered(f"a.{MOST_AHEAD + 1}") == too_high
        assert await numbered("a.1", "a.2", "b.7") == (202, None)
        assert await numbered(f"a.{MOST_AHEAD + 2}", "a.3") == (202, None)
        assert await numbered(f"a.{2 * MOST_AHEAD + 3}") == too_high
        assert await numbered("a.4", f"a.{2 * MOST_AHEAD + 2}") == (202, None)


async def test_what_was_decided_here_is_reported_on_its_own_route(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        answer = (await service.post("/v1/decisions", asked())).json()
        (decided,) = await service.events()
        executed = document(foreign()[1]) | {"subject": answer["decision_id"]}
        executed["data"]["receipt"] = answer["receipt"]
        for event, code in ((executed, "decided_here"), (document(decided), "not_an_event")):
            refused = await service.client.post(
                "/v1/events",
                content=json.dumps(event),
                headers=service.headers("bot", **{"content-type": "application/cloudevents+json"}),
            )
            assert refused.json()["code"] == code
        assert EventRecord.from_event(decided)
