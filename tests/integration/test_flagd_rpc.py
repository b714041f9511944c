"""flagd's own provider over RPC, against a server that speaks its protocol on this machine; also after a fork."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from boundary_cases import KEYS, contract, in_child
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.schemas.protobuf.flagd.evaluation.v2 import evaluation_pb2 as pb
from openfeature.schemas.protobuf.flagd.evaluation.v2 import evaluation_pb2_grpc as rpc

from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import flag_context

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONTEXT = flag_context(contract(account="acct-1"))


class Flagd(rpc.ServiceServicer):
    """Answers with its values, and tells its clients when they change."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {
            KEYS["enabled"]: True,
            KEYS["denylist"]: False,
            KEYS["mode"]: "autonomous",
            KEYS["approval"]: False,
            KEYS["threshold"]: 0.5,
        }
        self._turn = threading.Condition()
        self._changes = 0
        self.ended = False

    def change(self, key: str, value: object) -> None:
        with self._turn:
            self.values[key] = value
            self._changes += 1
            self._turn.notify_all()

    def end(self) -> None:
        with self._turn:
            self.ended = True
            self._turn.notify_all()

    def EventStream(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the protocol's name
        yield pb.EventStreamResponse(type="provider_ready")
        known = 0
        while True:
            with self._turn:
                self._turn.wait_for(lambda known=known: self._changes != known or self.ended)
                known = self._changes
            if self.ended:
                return
            changed = pb.EventStreamResponse(type="configuration_change")
            changed.data.update({"flags": {key: {} for key in self.values}})
            yield changed

    def _value(self, request: Any, context: Any) -> Any:
        if request.flag_key not in self.values:
            context.abort(grpc.StatusCode.NOT_FOUND, f"flag `{request.flag_key}` not found")
        return self.values[request.flag_key]

    def ResolveBoolean(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ResolveBooleanResponse(value=self._value(request, context), reason="STATIC", variant="set")

    def ResolveString(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ResolveStringResponse(value=self._value(request, context), reason="STATIC", variant="set")

    def ResolveFloat(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ResolveFloatResponse(value=self._value(request, context), reason="STATIC", variant="set")


@contextmanager
def serving() -> Iterator[tuple[Flagd, int]]:
    flagd = Flagd()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        rpc.add_ServiceServicer_to_server(flagd, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield flagd, port
        finally:
            flagd.end()
            server.stop(None).wait()


def provider(port: int) -> FlagdProvider:
    return FlagdProvider(host="127.0.0.1", port=port, resolver_type=ResolverType.RPC, deadline_ms=2_000)


def await_mode(held: FlagEvaluator, mode: str) -> None:
    waited = threading.Event()
    for _ in range(1_000):
        if held.evaluate(CONTEXT).mode.value == mode:
            return
        waited.wait(0.01)
    raise AssertionError(f"{mode} never came to be")


def test_a_change_is_in_force_and_the_end_of_the_stream_gives_the_safe_values() -> None:
    with serving() as (flagd, port):
        held = FlagEvaluator(provider(port), deadline_s=2.0)
        await_mode(held, "autonomous")
        flagd.change(KEYS["mode"], "off")
        await_mode(held, "off")
    try:
        await_mode(held, "search_only")
        assert not held.ready
    finally:
        held.close()


def test_a_child_after_fork_does_not_decide_by_what_its_parent_was_sent() -> None:
    with serving() as (_, port):
        held = FlagEvaluator(provider(port), deadline_s=2.0)
        try:
            await_mode(held, "autonomous")
            answer = in_child(lambda: f"{held.evaluate(CONTEXT).mode} {held.ready}")
            assert answer == "search_only False"
            assert held.evaluate(CONTEXT).mode == "autonomous"
        finally:
            held.close()


def test_a_child_after_fork_makes_a_provider_of_its_own() -> None:
    with serving() as (flagd, port):
        held = FlagEvaluator(lambda: provider(port), deadline_s=5.0)
        try:
            await_mode(held, "autonomous")
            flagd.change(KEYS["mode"], "draft_write")
            await_mode(held, "draft_write")

            def in_force() -> str:
                await_mode(held, "draft_write")
                return f"{held.evaluate(CONTEXT).mode} {held.ready}"

            assert in_child(in_force, timeout_s=30) == "draft_write True"
        finally:
            held.close()
