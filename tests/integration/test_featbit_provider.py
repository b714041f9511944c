"""FeatBit's real provider and client, against a server that speaks its protocol on this machine.

The rules that they serve are the same five flags; what is tested is the way that docs/boundary.md describes.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import pytest
from boundary_cases import KEYS, Permit, contract, evaluated, in_child
from fbclient.client import FBClient
from fbclient.config import Config
from featbit_openfeature import FeatBitProvider
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from producers.boundary.decision_rules import decide
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import FLAGS, flag_context
from producers.wire.decision import FlagReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from producers.boundary.policy_flags import Flag

pytestmark = [pytest.mark.integration, pytest.mark.slow]

VALUES: dict[str, bool | str | float] = {
    KEYS["enabled"]: True,
    KEYS["denylist"]: False,
    KEYS["mode"]: "autonomous",
    KEYS["approval"]: False,
    KEYS["threshold"]: 0.5,
}
BARRED = "acct-1"
"""The denylist's rule is true for this account."""


def _wait_until(what: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(2_000):
        if what():
            return
        waited.wait(0.01)
    raise AssertionError("it never came to be")


class Service:
    """A flag service: its flags, and the address under which an evaluator reaches it."""

    def __init__(self, missing: str | None = None) -> None:
        self.values = {key: value for key, value in VALUES.items() if key != missing}
        self.off: str | None = None
        self.asked: list[str] = []
        self._open = ExitStack()
        self.evaluator: FlagEvaluator

    @contextmanager
    def http(self, answer: Callable[[str], Any]) -> Iterator[str]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                service.asked.append(f"{self.command} {self.path}")
                body = json.dumps(answer(self.path)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _reply  # noqa: N815 - the server asks for these names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as above
                """Not into the tests' output."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def change(self, key: str, value: object) -> None:
        """An operator changes a flag."""
        self.values[key] = value  # type: ignore[assignment]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.evaluator.close()
        self._open.close()


class FeatBit(Service):
    """Serves `/streaming`, a web socket over which flags come in full at first, then as they change."""

    def __init__(self, missing: str | None = None) -> None:
        super().__init__(missing)
        self._moment = 0
        self._connections: list[ServerConnection] = []
        events = self._open.enter_context(self.http(lambda _path: {}))
        server = self._open.enter_context(serve(self._talk, "127.0.0.1", 0))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self._open.callback(thread.join)
        self._open.callback(server.shutdown)
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        client = FBClient(Config("a-secret-of-the-environment", event_url=events, streaming_url=address), 10.0)
        self.evaluator = FlagEvaluator(FeatBitProvider(client))

    def _talk(self, connection: ServerConnection) -> None:
        self.asked.append(connection.request.path if connection.request is not None else "")
        self._connections.append(connection)
        try:
            for text in connection:
                if json.loads(text)["messageType"] == "data-sync":
                    connection.send(self._message("full", list(self.values)))
        except ConnectionClosed:
            return

    def change(self, key: str, value: object) -> None:
        super().change(key, value)
        for connection in self._connections:
            connection.send(self._message("patch", [key]))

    def _message(self, kind: str, keys: list[str]) -> str:
        self._moment += 1
        flags = [self._flag(key, self.values[key]) for key in keys]
        return json.dumps(
            {"messageType": "data-sync", "data": {"eventType": kind, "featureFlags": flags, "segments": []}}
        )

    def _flag(self, key: str, value: object) -> dict[str, Any]:
        def served(variation: str) -> dict[str, Any]:
            rollout = [{"id": variation, "rollout": [0, 1], "exptRollout": 1}]
            return {"dispatchKey": None, "includedInExpt": False, "variations": rollout}

        rules = []
        if key == KEYS["denylist"]:
            condition = {"property": "account", "op": "Equal", "value": BARRED}
            rules = [{"id": "r", "name": "barred", "conditions": [condition], **served("other")}]
        kind = "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        other = "true" if isinstance(value, bool) else str(value)
        return {
            "id": f"id-{key}",
            "key": key,
            "name": key,
            "variationType": kind,
            "variations": [{"id": "set", "value": str(value).lower()}, {"id": "other", "value": other}],
            "disabledVariationId": "set",
            "isEnabled": key != self.off,
            "isArchived": False,
            "targetUsers": [],
            "rules": rules,
            "fallthrough": served("set"),
            "exptIncludeAllTargets": True,
            "updatedAt": f"2026-01-01T00:00:{self._moment:02d}.000Z",
        }


@pytest.fixture
def service() -> Iterator[FeatBit]:
    with FeatBit() as made:
        yield made


def test_the_five_flags_decide_by_targeting_key_and_scalar_attributes(service: Service) -> None:
    decision = decide(contract(account="acct-2"), Permit(), service.evaluator).decision
    assert (decision.result.outcome, decision.result.reason) == ("allow", "policy_allows")
    assert [flag.key for flag in decision.flags] == [flag.key for flag in FLAGS]
    assert [flag.error for flag in decision.flags] == [None] * 5
    answers = service.evaluator.evaluate(flag_context(contract(account="acct-2")))
    assert (answers.mode, answers.confidence_threshold) == ("autonomous", 0.5)
    barred = decide(contract(account=BARRED), Permit(), service.evaluator).decision
    assert (barred.result.outcome, barred.result.reason) == ("deny", "on_denylist")
    assert barred.ruleset_sha256 != decision.ruleset_sha256, "it covers the answers, since no rules are shown"
    assert any("/streaming" in path for path in service.asked)


def test_a_change_is_in_force_once_the_client_has_it(service: Service) -> None:
    context = flag_context(contract(account="acct-2"))
    assert service.evaluator.evaluate(context).mode == "autonomous"
    service.change(KEYS["mode"], "off")
    _wait_until(lambda: service.evaluator.evaluate(context).mode == "off")
    assert decide(contract(account="acct-2"), Permit(), service.evaluator).decision.result.outcome == "deny"


def test_a_child_after_fork_does_not_decide_by_what_its_parent_was_sent(service: Service) -> None:
    context = flag_context(contract(account="acct-2"))
    assert service.evaluator.evaluate(context).mode == "autonomous"
    answer = in_child(lambda: f"{service.evaluator.evaluate(context).mode} {service.evaluator.ready}")
    assert answer == "search_only False"
    assert service.evaluator.evaluate(context).mode == "autonomous"


def test_a_value_that_cannot_decide_falls_to_the_safe_one(service: Service) -> None:
    context = flag_context(contract(account="acct-2"))
    service.change(KEYS["mode"], "everything")
    _wait_until(lambda: service.evaluator.evaluate(context).evaluations[2].reason is FlagReason.ERROR)
    answers = service.evaluator.evaluate(context)
    assert answers.mode == "search_only"
    assert "everything" in (answers.evaluations[2].error or "")


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.key)
def test_a_missing_flag_has_its_safe_value(flag: Flag) -> None:
    with FeatBit(missing=flag.key) as service:
        value, evaluation = evaluated(service.evaluator, flag, flag_context(contract(account="acct-2")))
        assert value == flag.safe
        assert "FLAG_NOT_FOUND" in (evaluation.error or "")


def test_a_flag_of_featbit_that_is_off_has_its_safe_value_and_not_its_off_variation() -> None:
    with FeatBit() as service:
        context = flag_context(contract(account="acct-2"))
        assert service.evaluator.evaluate(context).denied is False
        service.off = KEYS["denylist"]
        service.change(KEYS["denylist"], value=False)
        _wait_until(lambda: service.evaluator.evaluate(context).denied)
        assert service.evaluator.evaluate(context).evaluations[1].reason is FlagReason.DISABLED
