"""Calls of a management API when it is slow, broken, busy or somebody else's: deadlines, pauses and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from producers.boundary.stage_store import StageConflictError, StageStoreError
from producers.errors import SettingsError
from producers.flag_services.management_api import ManagementApi, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "a-token-that-nobody-may-see"  # noqa: S105 - of a test


class Clock:
    """Time that passes where somebody waits."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Server:
    """Gives one answer after another, the last again and again."""

    def __init__(self, api: ManagementApi, *answers: int | httpx.Response | Exception) -> None:
        self.answers, self.asked = list(answers), 0
        api._client.close()  # noqa: SLF001 - its connections are replaced
        transport = httpx.MockTransport(self._answer)
        client = httpx.Client(base_url=api.url, headers={"authorization": TOKEN}, transport=transport)
        object.__setattr__(api, "_client", client)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == TOKEN
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, json={"message": "words"}) if isinstance(answer, int) else answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(clock: Clock) -> Iterator[ManagementApi]:
    made = ManagementApi("Unleash", "https://unleash.example", TOKEN, clock=clock, sleep=clock.sleep)
    yield made
    made.close()


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, httpx.ConnectError("no route"), httpx.ReadTimeout("slow")])
def test_a_read_is_repeated_until_it_is_answered(api: ManagementApi, clock: Clock, fault: int | Exception) -> None:
    server = Server(api, fault, fault, 200)
    assert api.get("/flags").status == 200
    assert (server.asked, len(clock.slept)) == (3, 2)
    assert clock.slept[0] < 2 * clock.slept[1]


@pytest.mark.parametrize("fault", [429, 500, httpx.ConnectError("no route"), httpx.ReadTimeout("slow")])
def test_a_read_ends_at_its_deadline_and_says_why(api: ManagementApi, clock: Clock, fault: int | Exception) -> None:
    Server(api, fault)
    with pytest.raises(StageStoreError, match=r"within 10 s; nothing was changed") as ended:
        api.get("/flags")
    assert clock.now <= 10
    assert max(clock.slept) <= 2
    assert TOKEN not in str(ended.value)
    assert "https://unleash.example" in str(ended.value)


def test_who_says_how_long_to_wait_is_heeded(api: ManagementApi, clock: Clock) -> None:
    Server(api, httpx.Response(429, headers={"retry-after": "4"}), 200)
    api.get("/flags")
    assert clock.slept == [4.0]
    Server(api, httpx.Response(429, headers={"retry-after": "3600"}))
    with pytest.raises(StageStoreError, match="it answers 429"):
        api.write("POST", "/flags")
    assert clock.slept == [4.0], "nobody waits beyond the deadline"


@pytest.mark.parametrize("fault", [429, 503, httpx.ConnectError("no route")])
def test_a_write_that_has_not_begun_is_repeated(api: ManagementApi, fault: int | Exception) -> None:
    server = Server(api, fault, 200)
    assert api.write("POST", "/flags", {"name": "a"}).status == 200
    assert server.asked == 2


@pytest.mark.parametrize("fault", [500, 502, 504, httpx.ReadTimeout("slow"), httpx.ReadError("reset")])
def test_a_write_that_may_have_been_made_is_never_repeated(api: ManagementApi, fault: int | Exception) -> None:
    server = Server(api, fault, 200)
    with pytest.raises(OutcomeUnknownError, match="is not known"):
        api.write("POST", "/flags")
    assert server.asked == 1


@pytest.mark.parametrize("call", [lambda api: api.get("/flags"), lambda api: api.write("PUT", "/flags")])
def test_a_refused_token_is_named_and_not_shown(api: ManagementApi, call: Callable[[ManagementApi], object]) -> None:
    for status in (401, 403):
        server = Server(api, status)
        with pytest.raises(StageStoreError, match="STAGEKEEPER_STAGE_STORE_TOKEN") as refused:
            call(api)
        assert server.asked == 1
        assert TOKEN not in f"{refused.value!r} {api!r}"


def test_a_conflict_and_a_failed_test_are_conflicts(api: ManagementApi) -> None:
    failed = httpx.Response(500, json={"message": "Test operation failed\nname: TEST_OPERATION_FAILED"})
    for answer in (httpx.Response(409), failed):
        Server(api, answer)
        with pytest.raises(StageConflictError, match="look at it again"):
            api.write("PATCH", "/flags")


@pytest.mark.parametrize("status", [301, 400, 418, 422])
def test_anything_else_is_refused_with_the_service_s_words(api: ManagementApi, status: int) -> None:
    Server(api, status)
    with pytest.raises(StageStoreError, match=rf"it answers {status} \(words\)"):
        api.write("PUT", "/flags")


def test_an_answer_that_does_not_end_is_left_at_the_deadline(api: ManagementApi, clock: Clock) -> None:
    def drip() -> Iterator[bytes]:
        while True:
            clock.now += 1
            yield b" "

    Server(api, httpx.Response(200, content=drip()))
    with pytest.raises(StageStoreError, match="does not end"):
        api.get("/flags")
    assert clock.now < 15


def test_what_is_no_json_is_kept_as_text(api: ManagementApi) -> None:
    Server(api, httpx.Response(404, text="<html>not here</html>"))
    assert api.get("/flags").body == "<html>not here</html>"


@pytest.mark.parametrize("token", ["", "  ", "a\nb", "ü"])
def test_a_token_that_is_none_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SettingsError, match="STAGEKEEPER_STAGE_STORE_TOKEN"):
        ManagementApi("Unleash", "https://unleash.example", token)
