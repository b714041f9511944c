from __future__ import annotations

import json
import logging
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fakes import FakeClock
from service_cases import asked, running_service, settings_in

from producers.errors import UsageError
from producers.strict_yaml import ConfigurationFileError
from stagekeeper.api.access import RateLimiter
from stagekeeper.api.access_tokens import TokenChecker, TokensFile, draw_token, revoke_token
from stagekeeper.commands import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOT = {"agent": "support-bot", "service": "crm", "scopes": ["decide"]}
OPEN = {"/livez", "/readyz"}


async def test_everything_but_the_two_probes_takes_a_token_and_its_scope(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        app = service.client._transport.app  # type: ignore[attr-defined]  # noqa: SLF001
        paths = app.openapi()["paths"]
        assert len(paths) > 5
        for path, methods in paths.items():
            for method in methods:
                place = path.replace("{decision_id}", "x").replace("{verdict_id}", "x")
                plain = await service.client.request(method, place, json={})
                assert (plain.status_code == 401) == (path not in OPEN), place
                service.reset_failures()


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        (None, 401, "unauthenticated"),
        ("skt1.000000000000.guess", 401, "unauthenticated"),
        ("Ünï.cödé.tökén", 401, "unauthenticated"),
        ("ada", 403, "missing_scope"),
        ("tickets", 403, "missing_scope"),
    ],
)
async def test_without_the_scope_nothing_is_decided(tmp_path: Path, token: str | None, status: int, code: str) -> None:
    async with running_service(tmp_path) as service:
        text = service.tokens.get(token, token) if token else None
        headers = {"Authorization": f"Bearer {text}".encode()} if text else {}
        response = await service.client.post("/v1/decisions", json=asked(scopes=["decide"]), headers=headers)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert "WWW-Authenticate" in response.headers
        assert await service.events() == []


async def test_a_revoked_or_expired_token_is_refused_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.yaml", FakeClock(datetime.now(UTC))
    token, text = draw_token(path, **BOT)
    later, timed = draw_token(path, **BOT, expires_at=clock() + timedelta(minutes=1))
    elapsed = [0.0]
    checker = TokenChecker(path, now=clock, clock=lambda: elapsed[0])
    assert checker.check(text) == token
    assert checker.check(timed) == later
    clock.advance(61)
    assert checker.check(timed) is None
    revoke_token(path, token.id)
    elapsed[0] = 0.6
    assert checker.check(text) is None
    path.write_text("version: 1\ntokens: [")
    elapsed[0] = 1.2
    assert checker.check(text) is None
    assert checker.fault is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scopes": ["decide"]}, "names its agent"),
        ({"scopes": ["review"]}, "names its person"),
        ({**BOT, "person": "ada", "scopes": ["decide", "review"]}, "approve its own"),
        ({**BOT, "scopes": ["everything"]}, "scopes"),
    ],
)
def test_there_is_no_token_that_could_approve_its_own_actions(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        draw_token(tmp_path / "tokens.yaml", **fields)


def test_the_file_holds_no_token_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    _, text = draw_token(path, **BOT)
    assert text not in path.read_text()
    assert text.rpartition(".")[2] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert len(TokensFile.load(path).tokens) == 1
    with pytest.raises(ConfigurationFileError, match="token new"):
        TokenChecker(tmp_path / "none.yaml")


def test_a_rate_refills_with_time_and_holds_a_second_of_it() -> None:
    clock = FakeClock()
    limiter = RateLimiter(lambda: clock().timestamp())
    assert [limiter.take("a", 2.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert limiter.take("b", 2.0) == 0.0
    clock.advance(0.5)
    assert limiter.take("a", 2.0) == 0.0
    clock.advance(100)
    assert [limiter.take("a", 2.0) > 0 for _ in range(3)] == [False, False, True]


async def test_a_token_that_asks_too_often_waits_and_others_do_not(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        _, slow = draw_token(tmp_path / "tokens.yaml", **BOT, per_second=1)
        headers = {"Authorization": f"Bearer {slow}"}
        service.look_at_tokens()
        answers = [await service.client.get("/v1/decisions/none", headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [404, 429]
        assert answers[1].headers["Retry-After"] == "1"
        assert (await service.get("/v1/decisions/none")).status_code == 404


async def test_guessing_is_slowed_down_for_those_who_guess(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        headers = {"Authorization": "Bearer skt1.000000000000.guess"}
        codes = [(await service.client.get("/v1/decisions/x", headers=headers)).status_code for _ in range(30)]
        assert codes[0] == 401
        assert codes[-1] == 429
        assert (await service.get("/v1/decisions/none")).status_code == 404, "a token that holds, from the same address"
        assert (await service.client.get("/v1/decisions/x", headers=headers)).status_code == 429


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"a": "' + b"x" * 10_000_000 + b'"}', 413, "body_too_large"),
        (b'{"arguments": ' + b"[" * 65 + b"]" * 65 + b"}", 422, "body_too_deep"),
        (b'{"tool": "' + b"[" * 2_000 + b'"}', 422, "invalid_request"),
        (b"{", 422, "not_json"),
        (b"[]", 422, "invalid_request"),
        (b'{"confidence": NaN}', 422, "not_json"),
    ],
)
async def test_a_body_beyond_its_limits_is_refused_by_name(tmp_path: Path, body: bytes, status: int, code: str) -> None:
    async with running_service(tmp_path) as service:
        response = await service.client.post("/v1/decisions", content=body, headers=service.headers())
        assert (response.status_code, response.json()["code"]) == (status, code)

        async def chunks() -> Any:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        streamed = await service.client.post("/v1/decisions", content=chunks(), headers=service.headers())
        assert (streamed.status_code, streamed.json()["code"]) == (status, code)


@pytest.fixture
def bounded_processor_time() -> Iterator[None]:
    """End a test whose work grows with the square of its input, which would take hours."""

    def end(*_: object) -> None:
        raise AssertionError("the processor time of a scan that is linear, a thousand times over")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, 10)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.usefixtures("bounded_processor_time")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b'"\\' * 500_000 + b"[" * 65, 401, id="a string that never ends"),
        pytest.param(b"[" * 65 + b'"\\' * 500_000, 422, id="one below 65 lists"),
        pytest.param(b'"' + b"[" * 65 + b"\\" * 1_000_000, 401, id="escapes"),
        pytest.param(b"[]" * 65 + b'""' * 500_000, 401, id="empty strings"),
        pytest.param(b"[]" * 500_000, 401, id="empty lists"),
    ],
)
async def test_no_body_keeps_the_service_from_others(tmp_path: Path, body: bytes, status: int) -> None:
    async with running_service(tmp_path) as service:
        assert (await service.client.post("/v1/decisions", content=body)).status_code == status


async def test_who_has_no_token_is_told_what_fails_and_nothing_of_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service(tmp_path) as service:
        (tmp_path / "tokens.yaml").write_text("version: 1\ntokens: [\n  - 'a secret")
        service.break_desk()
        service.look_at_tokens()
        answers = [await service.client.get("/readyz") for _ in range(3)]
        assert {answer.status_code for answer in answers} == {503}
        assert "tokens: " in str(answers[0].json()["faults"])
        assert "reviews: " in str(answers[0].json()["degraded"])
        for told in (str(tmp_path), "tokens.yaml", "reviews.db", "secret", "line "):
            assert told not in answers[0].text
        logged = [record.getMessage() for record in caplog.records if record.name == "stagekeeper.api.readiness"]
        assert len(logged) == 2
        assert str(tmp_path / "tokens.yaml") in logged[0]


async def test_no_token_reaches_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_service(tmp_path) as service:
        for path in ("/v1/decisions", "/v1/decisions/x/execution", "/nowhere"):
            await service.post(path, {"contract": service.tokens["bot"]})
        await service.client.get("/v1/gate", headers={"Authorization": f"Basic {service.tokens['bot']}"})
        for text in service.tokens.values():
            assert text not in caplog.text
            assert text.rpartition(".")[2] not in caplog.text


def test_tokens_are_drawn_listed_and_revoked_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_HOME", str(tmp_path))
    run = CliRunner().invoke
    new = run(cli, ["token", "new", "--agent", "a", "--service", "s", "--scope", "decide", "--expires", "1d", "--json"])
    drawn = json.loads(new.output)
    assert drawn["token"].startswith(f"skt1.{drawn['id']}.")
    assert "sha256" not in drawn
    assert json.loads(run(cli, ["token", "list", "--json"]).output)[0]["scopes"] == ["decide"]
    assert "revoked" in run(cli, ["token", "revoke", drawn["id"]]).output
    assert "revoked" in run(cli, ["token", "list"]).output
    assert run(cli, ["token", "revoke", "nobody"]).exception is not None
    assert drawn["token"] not in settings_in(tmp_path).tokens.read_text()
