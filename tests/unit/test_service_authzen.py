from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from boundary_cases import contract, flag_evaluator
from service_cases import Service, running_service

from producers.boundary.authzen import AuthzenAuthorizer
from producers.boundary.decision_rules import decide
from producers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUESTION: dict[str, Any] = {
    "subject": {"type": "agent", "id": "support-bot", "properties": {"user": "u-1", "team": "ignored"}},
    "action": {
        "name": "issue_refund",
        "properties": {"workflow": "refunds", "risk_class": "external_effect", "reversibility": "manual"},
    },
    "resource": {"type": "billing", "id": "o-1", "properties": {"environment": "production"}},
}


def keyed(key: str, **changed: Any) -> dict[str, Any]:
    return {**QUESTION, "context": {"stagekeeper": {"idempotency_key": key, **changed}}}


async def ask(service: Service, body: Any, path: str = "evaluation") -> Any:
    response = await service.post(f"/access/v1/{path}", body, X_Request_ID="r-1")
    assert response.status_code == 200, response.text
    assert response.headers["X-Request-ID"] == "r-1"
    return response.json()


@pytest.mark.parametrize(
    ("flags", "decision", "outcome"),
    [
        ({}, True, "allow"),
        ({"denylist": True}, False, "deny"),
        ({"approval": True}, False, "queue_for_review"),
        ({"mode": "fallback"}, False, "fallback"),
        ({"mode": "draft_write"}, False, "constrain"),
        ({"mode": "observe"}, False, "allow"),
    ],
)
async def test_only_what_runs_as_asked_is_a_yes(
    tmp_path: Path, flags: dict[str, Any], decision: bool, outcome: str
) -> None:
    async with running_service(tmp_path, **flags) as service:
        answer = await ask(service, keyed("k-1"))
        assert answer["decision"] is decision
        assert answer["context"]["stagekeeper"]["outcome"] == outcome
        assert answer == await ask(service, keyed("k-1")), "a retry"
        assert len(await service.events()) == 1


async def test_a_lesser_variant_is_a_yes_only_to_who_runs_it(tmp_path: Path) -> None:
    async with running_service(tmp_path, mode="draft_write") as service:
        answer = await ask(service, keyed("k-1", variants=["draft"]))
        assert answer["decision"] is True
        assert answer["context"]["stagekeeper"]["permit"]["runs"] == "draft"


async def test_without_a_key_nothing_is_counted_and_nothing_may_change(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        unkeyed = await ask(service, QUESTION)
        assert unkeyed["decision"] is False
        assert unkeyed["context"]["stagekeeper"]["reason"] == "idempotency_key_needed"
        assert (await ask(service, {**QUESTION, "context": {"stagekeeper": {"hint": True}}}))["decision"] is True
        reading = {"workflow": "refunds", "risk_class": "search", "reversibility": "automatic"}
        assert (await ask(service, {**QUESTION, "action": {"name": "find", "properties": reading}}))["decision"] is True
        assert await service.events() == []


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [
        (None, [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_many_are_answered_in_order_and_cut_short_where_asked(
    tmp_path: Path, semantic: str | None, decisions: list[bool]
) -> None:
    async with running_service(tmp_path) as service:
        body = {
            **QUESTION,
            "evaluations": [
                {"context": {"stagekeeper": {"idempotency_key": "k-1"}}},
                {"subject": {"type": "agent"}},
                {"context": {"stagekeeper": {"idempotency_key": "k-2"}}},
            ],
            "options": {"evaluations_semantic": semantic} if semantic else {},
        }
        answers = (await ask(service, body, "evaluations"))["evaluations"]
        assert [answer["decision"] for answer in answers] == decisions
        if len(answers) > 1:
            assert answers[1]["context"]["error"]["status"] == 400
        assert await ask(service, keyed("k-1"), "evaluations") == await ask(service, keyed("k-1"))


@pytest.mark.parametrize(
    "options", [{"evaluations_semantic": value} for value in ([], {}, None, 1, "all")] + [["execute_all"], "x"]
)
async def test_an_order_that_does_not_exist_is_a_400(tmp_path: Path, options: Any) -> None:
    async with running_service(tmp_path) as service:
        body = {**QUESTION, "evaluations": [{}], "options": options}
        refused = await service.post("/access/v1/evaluations", body)
        assert refused.status_code == 400
        assert "execute_all" in refused.text


@pytest.mark.parametrize("missing", ["subject", "action", "resource"])
async def test_what_is_missing_is_a_400_with_a_text(tmp_path: Path, missing: str) -> None:
    async with running_service(tmp_path) as service:
        body = {name: value for name, value in QUESTION.items() if name != missing}
        refused = await service.post("/access/v1/evaluation", body)
        assert refused.status_code == 400
        assert missing in refused.text
        another = {**QUESTION, "subject": {"type": "agent", "id": "other-bot"}}
        assert (await service.post("/access/v1/evaluation", another)).status_code == 403
        found = (await service.get("/.well-known/authzen-configuration")).json()
        assert found["access_evaluation_endpoint"] == "http://service/access/v1/evaluation"


class _Point(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer: bytes = b'{"decision": true}'
    status = 200
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002


@pytest.fixture
def point() -> Iterator[tuple[type[_Point], str]]:
    handler = type("Point", (_Point,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}/access/v1/evaluation"
        server.shutdown()
        thread.join()


def test_a_policy_decision_point_holds_the_hard_authorization(point: tuple[type[_Point], str]) -> None:
    handler, endpoint = point
    with AuthzenAuthorizer(endpoint) as authorizer:
        assert decide(contract(), authorizer, flag_evaluator()).decision.result.outcome == "allow"
        handler.answer = b'{"decision": false, "context": {"why": "not on Sundays"}}'
        refused = decide(contract(), authorizer, flag_evaluator()).decision
    assert refused.result.reason == "not_authorized"
    assert "Sundays" in str(refused.authorization)
    assert handler.asked[0]["subject"] == {"type": "agent", "id": "support-bot", "properties": {}}


@pytest.mark.parametrize(
    ("status", "answer"),
    [(500, b'{"decision": true}'), (200, b"yes"), (200, b'{"decision": "true"}'), (200, b"[]"), (200, b"x" * 70_000)],
)
def test_no_usable_answer_is_a_refusal(point: tuple[type[_Point], str], status: int, answer: bytes) -> None:
    handler, endpoint = point
    handler.status, handler.answer = status, answer
    with AuthzenAuthorizer(endpoint) as authorizer:
        decision = decide(contract(), authorizer, flag_evaluator()).decision
    assert decision.result.outcome == "deny"
    assert decision.authorization is not None
    assert decision.authorization.rule == "authorizer-failed"


def test_nobody_there_is_a_refusal_and_a_token_stays_off_open_networks() -> None:
    away = AuthzenAuthorizer("http://127.0.0.1:9/access/v1/evaluation", timeout_s=0.2)
    assert decide(contract(), away, flag_evaluator()).decision.result.outcome == "deny"
    with pytest.raises(SettingsError, match="in the clear"):
        AuthzenAuthorizer("http://pdp.example/x", token="t")  # noqa: S106
    with pytest.raises(SettingsError, match="no address"):
        AuthzenAuthorizer("ftp://pdp.example/x")
