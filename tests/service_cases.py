"""A service over real files, asked in process: what the tests of the service share."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from boundary_cases import flagd_file

from producers.delivery.outbox import Outbox
from producers.delivery.recorder import system_clock
from producers.wire.events import event_from_bytes
from stagekeeper.api.access import RateLimiter
from stagekeeper.api.access_tokens import draw_token
from stagekeeper.api.open_service import open_service
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from producers.boundary.review_store import ReviewStore
    from producers.wire.events import Event
    from stagekeeper.api.access import AccessControl
    from stagekeeper.api.decision_log import DecisionLog

AUTHORIZATION = """
version: 1
rules:
  - name: bots
    agents: [support-bot, other-bot]
    tools: ["*"]
    environments: [production]
    highest_risk_class: irreversible
"""
KEY = "a receipt key for tests"


def contract(**changed: Any) -> dict[str, Any]:
    return {
        "actor": {"agent": "support-bot", "user": "u-1", "account": "a-1"},
        "intent": "the order came twice",
        "target": {"environment": "production", "system": "billing", "record": "o-1"},
        "tool": "issue_refund",
        "workflow": "refunds",
        "risk_class": "external_effect",
        "reversibility": "manual",
        **changed,
    }


def asked(**changed: Any) -> dict[str, Any]:
    return {"contract": contract(), "arguments": {"order": "o-1", "amount": 5}, **changed}


@dataclass
class Service:
    """A running service and tokens for it."""

    folder: Path
    client: httpx.AsyncClient
    log: DecisionLog
    access: AccessControl
    reviews: ReviewStore
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return settings_in(self.folder)

    def headers(self, name: str = "bot", **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}", **more}

    async def post(self, path: str, body: Any = None, *, by: str = "bot", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=self.headers(by, **named))

    async def get(self, path: str, *, by: str = "bot", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=self.headers(by, **named))

    async def events(self) -> list[Event]:
        """Everything in the outbox, oldest first, once all is written that was handed over."""
        await self.log.append([], lambda _: None)
        with Outbox(self.settings.service_log) as outbox:
            return [event_from_bytes(record.value) for record in outbox.after(0, 10_000)]

    def reset_failures(self) -> None:
        """Forget who has asked without a token."""
        self.access.limiter = RateLimiter()

    def look_at_tokens(self) -> None:
        """Have the tokens file looked at anew."""
        self.access.checker.look()

    def break_desk(self) -> None:
        """Take the file of the reviews away from the store."""
        self.reviews._database.close()  # noqa: SLF001 - as a database that is gone

    def flags(self, **values: Any) -> None:
        flagd_file(self.folder / "flags.json", **values)


def settings_in(folder: Path, **changed: Any) -> Settings:
    fields = {
        "home": folder,
        "flag_file": folder / "flags.json",
        "authorization_file": folder / "authorization.yaml",
        "gate_file": folder / "gates.yaml",
        "receipt_key": KEY,
        **changed,
    }
    return Settings(**fields)


def write_files(folder: Path, **flags: Any) -> dict[str, str]:
    """The files of a service, and tokens by name, which are the same in each."""
    flagd_file(folder / "flags.json", **flags)
    (folder / "authorization.yaml").write_text(AUTHORIZATION)
    text, tokens = _tokens()
    settings_in(folder).tokens.write_text(text)
    return tokens


@functools.cache
def _tokens() -> tuple[str, dict[str, str]]:
    bot = {"agent": "support-bot", "service": "crm", "scopes": ["decide", "report"]}
    drawn = {
        "bot": bot,
        "twin": bot,  # another token of the same agent and service
        "other": {**bot, "agent": "other-bot"},
        "ada": {"person": "ada@example.org", "scopes": ["review", "read"]},
        "boss": {"person": "boss@example.org", "scopes": ["operate", "read"]},
        "tickets": {"service": "helpdesk", "scopes": ["report"]},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.yaml"
        tokens = {name: draw_token(path, **fields)[1] for name, fields in drawn.items()}
        return path.read_text(), tokens


@contextlib.asynccontextmanager
async def running_service(
    folder: Path,
    *,
    tokens: dict[str, str] | None = None,
    changed: dict[str, Any] | None = None,
    now: Callable[[], datetime] = system_clock,
    **flags: Any,
) -> AsyncIterator[Service]:
    """A service in a folder, whose files are written unless tokens of an earlier one are given."""
    tokens = tokens or write_files(folder, **flags)
    with open_service(settings_in(folder, **(changed or {})), source="/service/test", now=now) as app:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield Service(folder, client, app.state.log, app.state.access, app.state.reviews, tokens)
