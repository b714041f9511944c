"""Hard authorization by a policy decision point that speaks AuthZEN 1.0, such as OPA, Cerbos, OpenFGA or Topaz."""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import ssl
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from producers.errors import SettingsError, StagekeeperError
from producers.wire.decision import Authorization

if TYPE_CHECKING:
    from producers.wire.contract import ActionContract

_MOST_BYTES = 65_536  # of an answer


class PolicyPointError(StagekeeperError):
    """The policy decision point gives no answer that can be used; the action is refused."""


class _ConnectionClosedError(PolicyPointError):
    """The connection was closed before there was an answer."""


class AuthzenAuthorizer:
    """Asks a policy decision point, for every action anew. No answer in time is a refusal.

    `policy_version` names the policy in force there, which nobody else can tell: a change of it is a change of rules.
    Safe to use from many threads; connections are kept.
    """

    def __init__(
        self,
        endpoint: str,  # of the evaluation, `https://pdp.example/access/v1/evaluation`
        *,
        token: str | None = None,  # sent as a bearer token
        timeout_s: float = 1.0,
        policy_version: str = "unknown",
        context: ssl.SSLContext | None = None,  # for authorities of your own
    ) -> None:
        url = urlsplit(endpoint)
        if url.scheme not in {"http", "https"} or url.hostname is None or url.username is not None:
            raise SettingsError(f"{url.scheme}://{url.hostname or ''} is no address of a policy decision point")
        if token is not None and url.scheme == "http" and url.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise SettingsError(f"the token would cross the network to {url.hostname} in the clear; use https")
        self._url = url
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._context = context
        self._idle: list[http.client.HTTPConnection] = []
        self.sha256 = hashlib.sha256(f"authzen\x00{endpoint}\x00{policy_version}".encode()).hexdigest()

    def authorize(self, contract: ActionContract) -> Authorization:
        """What the policy decision point says; `PolicyPointError` where it says nothing."""
        answer = self._ask(json.dumps(evaluation_of(contract)).encode())
        if not isinstance(answer, dict) or not isinstance(answer.get("decision"), bool):
            raise PolicyPointError("the policy decision point's answer has no decision")
        return Authorization(permitted=answer["decision"], rule="authzen", reason=_reason(answer.get("context")))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, body: bytes) -> Any:  # noqa: ANN401 - JSON
        try:
            kept = self._idle.pop()
        except IndexError:
            return self._ask_over(self._connect(), body)
        try:
            return self._ask_over(kept, body)
        except _ConnectionClosedError:  # while nobody asked
            return self._ask_over(self._connect(), body)

    def _ask_over(self, connection: http.client.HTTPConnection, body: bytes) -> Any:  # noqa: ANN401 - JSON
        path = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        try:
            connection.request("POST", path, body, self._headers)
            response = connection.getresponse()
            text = response.read(_MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            closed = isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError)
            kind = _ConnectionClosedError if closed else PolicyPointError
            raise kind(f"the policy decision point does not answer: {type(error).__name__}") from error
        if response.status != http.HTTPStatus.OK or len(text) > _MOST_BYTES:
            connection.close()
            raise PolicyPointError(f"the policy decision point answers {response.status}, {len(text):,} bytes")
        self._idle.append(connection)
        try:
            return json.loads(text)
        except ValueError as error:
            raise PolicyPointError("the policy decision point's answer is not JSON") from error

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)


def evaluation_of(contract: ActionContract) -> dict[str, Any]:
    """The standard's question about a contract, without its arguments' digest."""
    actor, target = contract.actor, contract.target
    properties = actor.model_dump(mode="json", exclude_none=True, exclude={"agent"})
    return {
        "subject": {"type": "agent", "id": actor.agent, "properties": properties},
        "action": {
            "name": contract.tool,
            "properties": {
                "workflow": contract.workflow,
                "risk_class": contract.risk_class.value,
                "reversibility": contract.reversibility.value,
                **({"tool_version": contract.tool_version} if contract.tool_version is not None else {}),
            },
        },
        "resource": {
            "type": target.system,
            "id": target.record or "*",
            "properties": {"environment": target.environment},
        },
    }


def _reason(context: object) -> str | None:
    """What the context says, as text that can be recorded: the standard fixes no form for it."""
    if not isinstance(context, dict) or not context:
        return None
    return json.dumps(context, ensure_ascii=True, sort_keys=True)[:4_000]
