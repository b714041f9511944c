"""Webhooks out, to a real HTTP receiver, from a real lake."""

from __future__ import annotations

import base64
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from enactor_cases import ACTION, GATES, Place, at
from webhook_receiver import SECRET, Receiver

from analytics.enactment.life_changes import LifeFeed
from analytics.lake.errors import FencedError, LakeError
from analytics.lake.leases import JUDGE
from analytics.lake.table_schemas import DELIVERIES
from analytics.lake.tables import Fence, Lake
from dashboard.urls import page_address
from producers.wire.stage import Mode, Stage
from streams.webhooks import dispatcher
from streams.webhooks.delivery import ForbiddenAddressError, check_address, check_literal
from streams.webhooks.endpoints import Endpoint, Webhooks
from streams.webhooks.messages_out import signed
from streams.webhooks.webhook_runner import WebhookRunner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
PAGE = "https://stagekeeper.example.com/"


class Sender:
    """A worker's part that sends, and comes back after a kill under a new tenure."""

    def __init__(self, place: Place, *endpoints: Endpoint) -> None:
        self.place, self.endpoints = place, endpoints
        self.seconds = 0.0
        self.tenure = 0
        self.restart()

    def restart(self) -> None:
        self.tenure += 1
        self.fence = Fence(JUDGE, self.tenure + 100)
        self.runner = WebhookRunner(
            self.place.lake.root,
            Webhooks(self.endpoints, PAGE),
            now=lambda: self.place.now,
            link=lambda cell: page_address(PAGE, cell),
            clock=lambda: self.seconds,
        )

    def send(self, *, after_s: float = 2.0) -> None:
        self.seconds += after_s
        self.place.now += timedelta(seconds=after_s)
        self.runner.run_once(self.fence)

    @property
    def metrics(self) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in self.runner.lines if not line.startswith("#")]
        return {name.removeprefix("stagekeeper_"): float(value) for name, value in lines}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    held = Place(tmp_path, GATES.replace("name: g,", "name: g, owner: payments,"))
    held.now = at(1)  # before anything happens
    return held


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def endpoint(receiver: Receiver, name: str = "payments", **more: Any) -> Endpoint:
    return Endpoint(name, receiver.url, **{"secrets": (KEY,), "allow_private": True, **more})


def rolled_back(place: Place, sender: Sender) -> None:
    """A rollback from its recommendation to the proof."""
    place.judged(failed=True)
    sender.send()
    place.look()
    place.decided("/tests", Stage.SEARCH_ONLY, 60)
    place.now = at(12)
    place.look()


def test_each_step_of_a_life_is_told_once_signed_with_its_numbers_and_a_link(place: Place, receiver: Receiver) -> None:
    sender = Sender(place, endpoint(receiver))
    sender.send()
    assert receiver.taken == []
    rolled_back(place, sender)
    for _ in range(3):
        sender.send()
    assert receiver.lives == ["open", "applied", "in_force"]
    assert receiver.verified()[0]["type"] == "stagekeeper.recommendation.open"
    assert len(set(receiver.ids)) == 3
    data = receiver.taken[0]["data"]
    assert data["headline"] == (
        "production/refunds/issue_refund: the rollback from draft_write to search_only is recommended"
    )
    assert data["summary"].startswith("Roll back to search_only")
    assert (data["owner"], data["verdict"], data["life"]) == ("payments", "ROLL_BACK", "open")
    assert (data["numbers"][0]["value"], data["numbers"][0]["limit"]) == (1.0, 0.1)
    assert data["link"].startswith(f"{PAGE.rstrip('/')}/action?environment=production&workflow=refunds")
    assert receiver.taken[2]["data"]["sources"] == ["/tests"]
    assert sender.metrics['webhooks_waiting{endpoint="payments"}'] == 0


def test_a_receiver_that_is_down_for_an_hour_is_told_everything_once(place: Place, receiver: Receiver) -> None:
    receiver.answer = lambda _: (503, {})
    sender = Sender(place, endpoint(receiver))
    sender.send()
    rolled_back(place, sender)
    for _ in range(12):
        sender.send(after_s=300.0)
    failed = len(receiver.headers)
    assert 4 <= failed <= 8, "it is left alone for longer each time"
    assert receiver.taken == []
    assert sender.metrics['webhooks_waiting{endpoint="payments"}'] == 3
    assert sender.metrics['webhooks_oldest_seconds{endpoint="payments"}'] >= 3_600
    receiver.answer = lambda _: (200, {})
    sender.send(after_s=2_200.0)
    assert sorted(receiver.lives) == ["applied", "in_force", "open"]
    assert len(set(receiver.ids)) == 3
    tried = {headers["webhook-id"] for headers in receiver.headers[:failed]}
    assert tried <= set(receiver.ids), "an attempt and the next one have the same id"


def test_a_worker_that_is_killed_leaves_nothing_untold_and_repeats_an_id_at_most(
    place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(place, endpoint(receiver))
    sender.send()
    place.judged(failed=True)

    def dies(*_: object, **__: object) -> None:
        raise LakeError("killed between the answer and its row")

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "append", dies)
        with pytest.raises(LakeError):
            sender.send()
    assert receiver.lives == ["open"]
    sender.restart()
    sender.send()
    assert receiver.lives == ["open", "open"]
    assert len(set(receiver.ids)) == 1, "so that the receiver knows it again"
    sender.restart()
    place.look()
    sender.send()
    assert receiver.lives == ["open", "open", "applied"]


def test_who_lost_the_lease_writes_nothing_and_what_changed_in_between_is_told(
    place: Place, receiver: Receiver
) -> None:
    sender = Sender(place, endpoint(receiver))
    sender.send()
    old, old_fence = sender.runner, sender.fence
    sender.restart()
    sender.send()
    place.judged(failed=True)
    with pytest.raises(FencedError):
        old.run_once(old_fence)
    assert {
        row["outcome"] for row in Lake.open_only(place.lake.root, DELIVERIES).scan(DELIVERIES).collect().to_dicts()
    } == {"begun"}
    sender.send()
    assert receiver.lives[-1] == "open"


def test_a_slow_receiver_holds_up_no_other(place: Place) -> None:
    other_has_it = threading.Event()

    def slow(_: int) -> tuple[int, dict[str, str]]:
        return (204 if other_has_it.wait(10) else 500), {}

    def quick(_: int) -> tuple[int, dict[str, str]]:
        other_has_it.set()
        return 204, {}

    with Receiver(slow) as first, Receiver(quick) as second:
        sender = Sender(place, endpoint(first, "a"), endpoint(second, "b"))
        sender.send()
        place.judged(failed=True)
        sender.send()
        assert first.lives == second.lives == ["open"]


def test_a_slow_receiver_gets_no_further_message_while_others_wait(place: Place, receiver: Receiver) -> None:
    sender = Sender(place, endpoint(receiver))
    sender.send()

    def slow(_: int) -> tuple[int, dict[str, str]]:
        sender.seconds += 6.0
        return 204, {}

    receiver.answer = slow
    place.judged(failed=True)
    place.look()
    sender.send()
    assert receiver.lives == ["open"]
    assert sender.metrics['webhooks_waiting{endpoint="payments"}'] == 1
    sender.send()
    assert receiver.lives == ["open", "applied"]


def test_what_is_followed_is_what_a_new_worker_reads(place: Place) -> None:
    followed = LifeFeed(Lake.open(place.lake.root))
    place.judged(failed=False)
    for step in (
        lambda: None,
        place.approved,
        place.look,
        lambda: place.judged(20, failed=True, stage=Stage.APPROVAL_GATED),
    ):
        step()
        read = [(change.change_id, change.life, change.at) for change in followed.read(place.now)]
        whole = LifeFeed(Lake.open(place.lake.root)).read(place.now)
        assert read == [(change.change_id, change.life, change.at) for change in whole]
    assert [life for _, life, _ in read] == ["open", "accepted", "applied", "open"]
    later = place.now + timedelta(days=8)
    assert "expired" in [change.life for change in followed.read(later)]


def test_slack_gets_its_own_shape(place: Place, receiver: Receiver) -> None:
    sender = Sender(place, endpoint(receiver, format="slack", secrets=()))
    sender.send()
    place.judged(failed=True)
    sender.send()
    (body,) = receiver.taken
    assert set(body) == {"text", "blocks"}
    text = body["blocks"][0]["text"]["text"]
    assert "execution_error: 100 % (60 of 60), limit 10 %" in text
    assert f"<{PAGE.rstrip('/')}/action?environment=production" in text
    assert "webhook-signature" not in receiver.headers[0]


def test_people_and_changes_of_mind_are_told_too(place: Place, receiver: Receiver) -> None:
    sender = Sender(place, endpoint(receiver))
    sender.send()
    place.judged(failed=False)
    sender.send()
    place.approved()
    sender.send()
    place.look()
    sender.send()
    assert receiver.lives == ["open", "accepted", "applied"]
    assert receiver.taken[0]["data"]["verdict"] == "PROMOTE"
    assert place.mode is Mode.APPROVED_EXTERNAL


def test_only_owners_of_the_gate_are_told_and_only_from_now_on(place: Place, receiver: Receiver) -> None:
    with Receiver() as other, Receiver() as late, Receiver() as chosen:
        sender = Sender(
            place,
            endpoint(receiver, owners=frozenset({"payments"})),
            endpoint(other, "other", owners=frozenset({"support"})),
            endpoint(chosen, "chosen", lives=frozenset({"applied"})),
        )
        sender.send()
        place.judged(failed=True)
        sender.send()
        sender.endpoints = (*sender.endpoints, endpoint(late, "late"))
        sender.restart()
        place.now = at(11)
        sender.send()
        place.look()
        sender.send()
        assert receiver.lives == ["open", "applied"]
        assert other.taken == []
        assert late.lives == chosen.lives == ["applied"]
    assert ACTION.tool in receiver.taken[0]["data"]["headline"]


def test_redirects_are_not_followed(place: Place, receiver: Receiver) -> None:
    with Receiver(lambda _: (307, {"location": receiver.url})) as redirecting:
        sender = Sender(place, endpoint(redirecting))
        sender.send()
        place.judged(failed=True)
        sender.send()
        assert receiver.headers == []
        assert sender.metrics['webhook_attempts_total{endpoint="payments",outcome="failed"}'] == 1


def test_a_receiver_says_when_it_wants_to_be_asked_again_or_never(place: Place, receiver: Receiver) -> None:
    receiver.answer = lambda number: (429, {"retry-after": "600"}) if number == 1 else (410, {})
    sender = Sender(place, endpoint(receiver))
    sender.send()
    place.judged(failed=True)
    sender.send()
    sender.send(after_s=590.0)
    assert len(receiver.headers) == 1
    for _ in range(3):
        sender.send(after_s=3_600.0)
    assert len(receiver.headers) == 2
    assert sender.metrics['webhooks_waiting{endpoint="payments"}'] == 1
    receiver.answer = lambda _: (204, {})
    sender.restart()
    sender.send()
    assert receiver.lives == ["open"]


def test_what_nobody_takes_for_three_days_is_given_up_and_said_so(
    place: Place, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda _: (500, {})
    sender = Sender(place, endpoint(receiver))
    sender.send()
    place.judged(failed=True)
    sender.send()
    sender.send(after_s=73 * 3_600.0)
    assert "was not told of msg_" in caplog.text
    assert sender.metrics['webhook_attempts_total{endpoint="payments",outcome="given_up"}'] == 1
    assert sender.metrics['webhooks_waiting{endpoint="payments"}'] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_address_is_asked_only_where_that_is_allowed(place: Place, receiver: Receiver, host: str) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    sender = Sender(place, Endpoint("payments", url, (KEY,)))
    sender.send()
    place.judged(failed=True)
    sender.send()
    assert receiver.headers == []
    assert sender.metrics['webhook_attempts_total{endpoint="payments",outcome="failed"}'] == 1


def test_a_failure_says_why_and_not_where(place: Place, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    url = receiver.url.replace("/hook", "/hunter2")
    sender = Sender(place, Endpoint("a", url.replace("http:", "https:"), (KEY,), allow_private=True))
    with Receiver() as closed:
        gone = closed.url.replace("/hook", "/hunter2")
    sender.endpoints = (*sender.endpoints, Endpoint("b", gone, (KEY,), allow_private=True))
    sender.restart()
    sender.send()
    place.judged(failed=True)
    sender.send()
    assert "webhook `a` failed: Client" in caplog.text
    assert "webhook `b` failed: ClientConnectorError: Connect call failed" in caplog.text
    assert "hunter2" not in caplog.text


def test_addresses_that_hand_out_credentials_are_never_asked() -> None:
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0", "0.0.0.0", "224.0.0.1"):  # noqa: S104
        with pytest.raises(ForbiddenAddressError):
            check_address(address, allow_private=True)
    for address in ("10.0.0.1", "::1", "192.168.1.1", "fd00::1"):
        check_address(address, allow_private=True)
        with pytest.raises(ForbiddenAddressError, match="allow_private"):
            check_address(address, allow_private=False)
    check_address("93.184.216.34", allow_private=False)


@pytest.mark.parametrize("hidden", ["64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "::ffff:127.0.0.1"])
def test_an_ipv4_address_within_one_of_ipv6_is_what_is_checked(hidden: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        check_literal(Endpoint("a", f"http://[{hidden}]/hook"))
    check_literal(Endpoint("a", "http://[64:ff9b::5db8:d822]/hook"))  # a public one, as networks without IPv4 write it


@pytest.mark.parametrize("allow_private", [True, False])
@pytest.mark.parametrize(
    "address",
    [
        *("::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::0:0"),
        *("2002:a9fe:a9fe::", "2002:7f00:1::", "2001:0:a9fe:a9fe::", "fec0::1", "4000::1", "fd00:ec2::254"),
    ],
)
def test_tunnels_and_obsolete_forms_of_ipv6_are_never_asked(address: str, *, allow_private: bool) -> None:
    with pytest.raises(ForbiddenAddressError, match=r"is not a public address$"):
        check_address(address, allow_private=allow_private)


def test_public_addresses_of_ipv6_are_asked() -> None:
    for address in ("2606:4700::1111", "2a00:1450:4001:830::200e"):
        check_address(address, allow_private=False)


def test_the_vector_of_the_specifications_libraries() -> None:
    assert signed([KEY], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
