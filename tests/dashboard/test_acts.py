"""What people do at the page: each act changes what it says, under a name and a reason, and nobody else may."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from console_pages import Console
from page_lakes import FLEET, populated

from dashboard.act_desk import EmergencySwitch, ForbiddenError, RecommendationAnswer, Role, UnnamedError, Visitor
from dashboard.urls import PageLocation
from producers.boundary.approvals import QueuedAction
from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_overlays import DENIED, EMERGENCIES, OverlayScope
from producers.boundary.flagd_stages import FlagdStages
from producers.boundary.review_store import ReviewStore
from producers.boundary.stage_store import ActionName, StageChange
from producers.delivery.outbox import Outbox
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.events import Resolution
from producers.wire.receipt import Receipt
from producers.wire.stage import Mode, Stage
from stagekeeper.console.desk import ConsoleDesk
from stagekeeper.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from console_pages import Shown

pytestmark = pytest.mark.slow

SICK = ActionName("production", "support", "close_ticket")
OPERATOR = {"is_logged_in": True, "email": "ada@example.org", "roles": ["operator"]}
REVIEWER = {"is_logged_in": True, "email": "rita@example.org", "roles": "reviewer"}
VIEWER = {"is_logged_in": True, "email": "vic@example.org"}
DECISION = "5f0c0d6e-2f5a-4b8e-8c77-3a1f9f1f4b11"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that acts of these tests append to; each has files of its own otherwise."""
    root = tmp_path_factory.mktemp("acts")
    populated(root, fleet=[FLEET[2], FLEET[4]])
    return root


@pytest.fixture
def console(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in ("flags.json", "home"):
        if (fleet / name).is_file():
            (fleet / name).unlink()
    opened = Console(fleet, monkeypatch)
    stages = FlagdStages(fleet / "flags.json")
    before = stages.read(SICK)
    stages.change(StageChange(SICK, Mode.APPROVED_EXTERNAL, before.version), before_write=lambda _: None)
    return opened


def recorded(console: Console) -> list[dict[str, Any]]:
    """The data of every event that waits for the broker."""
    with Outbox(console.root / "home" / "outbox.db") as outbox:
        return [json.loads(record.value)["data"] for record in outbox.after(0, 1_000)]


def mode_of(console: Console, action: ActionName = SICK) -> Mode | None:
    return FlagdStages(console.root / "flags.json").read(action).mode


def fill_in(shown: Shown, key: str, *, name: str | None = "maria", reason: str = "carrier rejects, INC-881") -> None:
    if name is not None:
        shown.app.text_input(key=f"{key}-name").set_value(name)
    shown.app.text_area(key=f"{key}-reason").set_value(reason)


def test_a_rollback_that_is_accepted_is_in_the_store_and_on_record(console: Console) -> None:
    shown = console.show(PageLocation("recommendations"), user=OPERATOR)
    assert "Roll back support / close_ticket to search only" in shown.text
    assert "What would be changed" in shown.text
    fill_in(shown, "recommendation", name=None)
    after = shown.press("sk-accept")
    assert mode_of(console) is Mode.SEARCH_ONLY
    assert next(element.value for element in after.app.success).startswith("Accepted and written to")
    change = recorded(console)[-1]
    assert (change["changed_by"], change["reason"]) == ("ada@example.org", "carrier rejects, INC-881")
    assert (change["before"], change["after"]) == ("approved_external", "search_only")
    assert change["recommendation_id"]


def test_what_the_store_has_moved_on_from_is_not_written_and_the_reason_stays(console: Console) -> None:
    shown = console.show(PageLocation("recommendations"))
    fill_in(shown, "recommendation")
    path = console.root / "flags.json"
    path.write_text(path.read_text().replace('"targeting"', ' "targeting"', 1))
    after = shown.press("sk-accept")
    assert mode_of(console) is Mode.APPROVED_EXTERNAL
    assert "nothing was written" in after.app.error[0].value
    assert after.app.text_area(key="recommendation-reason").value == "carrier rejects, INC-881"
    again = after.press("sk-accept")
    assert mode_of(console) is Mode.SEARCH_ONLY
    assert not again.app.error
    assert recorded(console)[-1]["changed_by"] == "maria (unauthenticated)"


@pytest.mark.parametrize(
    "user", [VIEWER, REVIEWER, {"is_logged_in": True, "roles": ["operator"]}], ids=["viewer", "reviewer", "nobody"]
)
def test_no_control_works_without_the_role_also_by_crafted_state(console: Console, user: dict[str, Any]) -> None:
    shown = console.show(PageLocation("recommendations"), user=user)
    assert shown.app.button(key="sk-accept").disabled
    shown.app.session_state["recommendation-reason"] = "crafted"
    shown.app.session_state["recommendation-name"] = "maria"
    shown.press_anyway("sk-accept")
    assert mode_of(console) is Mode.APPROVED_EXTERNAL


def test_whoever_is_not_on_this_machine_and_has_not_signed_in_may_look_only(
    fleet: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Console(fleet, monkeypatch, loopback=False).show(PageLocation("recommendations"))
    assert shown.app.button(key="sk-accept").disabled
    shown.app.session_state["recommendation-reason"] = "crafted"
    shown.press_anyway("sk-accept")
    assert mode_of(console) is Mode.APPROVED_EXTERNAL


def test_where_people_sign_in_nobody_sees_anything_before(console: Console) -> None:
    shown = console.show(user={"is_logged_in": False})
    assert shown.html == ""
    assert [button.label for button in shown.app.button] == ["Sign in"]


@pytest.mark.parametrize(("name", "reason"), [("", "why"), ("maria", "  ")])
def test_an_act_without_a_name_or_a_reason_is_none(console: Console, name: str, reason: str) -> None:
    shown = console.show(PageLocation("recommendations"))
    fill_in(shown, "recommendation", name=name, reason=reason)
    assert "say who you are and why" in shown.press("sk-accept").app.error[0].value
    assert mode_of(console) is Mode.APPROVED_EXTERNAL


def test_an_emergency_takes_two_clicks_and_can_be_resumed(console: Console) -> None:
    shown = console.show(PageLocation("policy")).press("sk-open-everything")
    fill_in(shown, "emergency")
    shown.press("sk-emergency-act")
    path = console.root / "flags.json"
    assert EMERGENCIES.scopes(FlagText.load(path)) == [OverlayScope()]
    stopped = console.show(PageLocation("policy"))
    assert "Everything falls back" in stopped.text
    fill_in(stopped, "resume-0")
    stopped.press("resume-0-act")
    assert EMERGENCIES.scopes(FlagText.load(path)) == []
    assert [change["after"] for change in recorded(console)[-2:]] == ["fallback for everything", "no emergency"]


@pytest.mark.parametrize(("what", "target"), [("deny", "close_ticket"), ("search", SICK)])
def test_one_tool_is_denied_and_one_action_returns_to_search_only(console: Console, what: str, target: Any) -> None:
    page = console.show(PageLocation("policy"), user=OPERATOR)
    page.app.session_state["sk-emergency-tool" if what == "deny" else "sk-emergency-action"] = target
    shown = page.press(f"sk-open-{what}")
    fill_in(shown, "emergency", name=None)
    shown.press("sk-emergency-act")
    if what == "deny":
        assert DENIED.scopes(FlagText.load(console.root / "flags.json")) == [OverlayScope(tool="close_ticket")]
    else:
        assert mode_of(console) is Mode.SEARCH_ONLY


def test_a_viewer_starts_no_emergency_by_crafted_state(console: Console) -> None:
    shown = console.show(PageLocation("policy"), user=VIEWER).press("sk-open-everything")
    shown.app.session_state["emergency-reason"] = "crafted"
    shown.press_anyway("sk-emergency-act")
    assert EMERGENCIES.scopes(FlagText.load(console.root / "flags.json")) == []


ACTS: dict[str, Callable[[ConsoleDesk, Visitor], object]] = {
    "stage": lambda desk, who: desk.change_stage(
        who, StageChange(SICK, Mode.SEARCH_ONLY, desk.stage(SICK).version), "x"
    ),
    "fallback": lambda desk, who: desk.flip(who, EmergencySwitch("fallback"), "x", on=True),
    "resume": lambda desk, who: desk.flip(who, EmergencySwitch("fallback"), "x", on=False),
    "deny": lambda desk, who: desk.flip(who, EmergencySwitch("deny", tool="close_ticket"), "x", on=True),
    "accept": lambda desk, who: desk.answer(who, answer_of(desk, accept=True), "x"),
    "dismiss": lambda desk, who: desk.answer(who, answer_of(desk, accept=False), "x"),
    "approve": lambda desk, who: desk.resolve(who, DECISION, Resolution.APPROVED, "x"),
    "reject": lambda desk, who: desk.resolve(who, DECISION, Resolution.REJECTED, "x"),
}


def answer_of(desk: ConsoleDesk, *, accept: bool) -> RecommendationAnswer:
    version = desk.stage(SICK).version
    return RecommendationAnswer(
        accept, SICK, Stage.SEARCH_ONLY, "ROLL_BACK", None, "v", "r", version, timedelta(days=1)
    )


@pytest.mark.parametrize("act", ACTS)
def test_the_desk_checks_the_role_whatever_the_page_has_shown(console: Console, act: str) -> None:
    queue(console)
    desk, path = ConsoleDesk(Settings.load()), console.root / "flags.json"
    before = path.read_bytes()
    for roles in ([], [Role.VIEWER], [Role.OPERATOR] if act in {"approve", "reject"} else [Role.REVIEWER]):
        with pytest.raises(ForbiddenError, match="needs the role"):
            ACTS[act](desk, Visitor("vic@example.org", frozenset(roles), authenticated=True))
    with pytest.raises(UnnamedError):
        ACTS[act](desk, Visitor(" ", frozenset(Role)))
    assert path.read_bytes() == before
    assert state_of(console) == "waiting"


def test_a_contract_is_tried_step_by_step_and_nothing_is_recorded(console: Console) -> None:
    shown = console.show(PageLocation("policy"))
    shown.app.selectbox[1].set_value(str(SICK))
    [button] = [button for button in shown.app.button if button.label == "Decide"]
    after = type(shown)(button.click().run())
    deciding = list(after.outline.of_class("sk-decides"))
    assert len(deciding) == 1
    assert "agent-action-mode" in after.text
    assert not (console.root / "home" / "outbox.db").exists() or all("contract" not in one for one in recorded(console))


def queue(console: Console, *, user: str | None = None) -> None:
    """Queue an action for review, as a router does."""
    contract = ActionContract(
        actor=Actor(agent="lex-agent", user=user),
        intent="The owner asked to delete everything.",
        target=Target(environment="production", system="crm", record="88-1042"),
        tool="close_ticket",
        workflow="support",
        risk_class=RiskClass.IRREVERSIBLE,
        reversibility=Reversibility.NONE,
    )
    now = datetime.now(UTC)
    receipt = Receipt(
        decision_id=DECISION, decided_at=now, environment="production", workflow="support", tool="close_ticket",
        stage=Stage.APPROVAL_GATED, cohort="all", epoch="e1",
    )  # fmt: skip
    (console.root / "home").mkdir(exist_ok=True)
    path = console.root / "home" / "reviews.db"
    for old in path.parent.glob("reviews.db*"):
        old.unlink()
    store = ReviewStore(path)
    store.submit(
        QueuedAction(
            decision_id=DECISION, receipt=receipt.token(), contract=contract, arguments={"account": "88-1042"},
            consequence="Close account 88-1042 for good", rule="risk_class_irreversible", ruleset_sha256="a" * 64,
            queued_at=now, expires_at=now + timedelta(minutes=5),
        )
    )  # fmt: skip
    store.close()


def state_of(console: Console) -> str:
    store = ReviewStore(console.root / "home" / "reviews.db")
    try:
        return store.get(DECISION).state.value
    finally:
        store.close()


def test_a_review_shows_what_would_run_and_is_approved_by_a_reviewer(console: Console) -> None:
    queue(console, user="user-2207")
    shown = console.show(PageLocation("reviews"), user=REVIEWER)
    for words in ("Close account 88-1042 for good", "The owner asked", "not checked", '"account": "88-1042"'):
        assert words in shown.text
    fill_in(shown, "review", name=None, reason="agreed by phone")
    shown.press("sk-approved")
    assert state_of(console) == "approved"
    said = recorded(console)[-1]
    assert (said["reviewer"], said["authenticated"]) == ("rita@example.org", True)


def test_a_name_that_nobody_has_checked_is_no_second_person(console: Console) -> None:
    queue(console, user="user-2207")
    shown = console.show(PageLocation("reviews"))
    fill_in(shown, "review", reason="agreed by phone")
    assert "needs another person" in shown.press("sk-approved").app.error[0].value
    assert state_of(console) == "waiting"
    fill_in(shown, "review", reason="wrong account")
    shown.press("sk-rejected")
    assert state_of(console) == "rejected"


def test_the_asker_cannot_approve_and_an_operator_is_no_reviewer(console: Console) -> None:
    queue(console, user="rita@example.org")
    shown = console.show(PageLocation("reviews"), user=REVIEWER)
    fill_in(shown, "review", name=None, reason="fine")
    assert "cannot approve it" in shown.press("sk-approved").app.error[0].value
    assert console.show(PageLocation("reviews"), user=OPERATOR).app.button(key="sk-approved").disabled
    assert state_of(console) == "waiting"


def test_a_gate_file_is_linted_and_tried_on_history_beside_the_one_in_force(console: Console) -> None:
    shown = console.show(PageLocation("what-if"))
    assert "What if the gates were others?" in shown.text
    text = (console.root / "gates.yaml").read_text(encoding="utf-8")
    shown.app.text_area(key="sk-gates-text").set_value(text.replace("signal: denial", "signal: denail"))
    broken = type(shown)(shown.app.run())
    assert "denail" in broken.text
    assert broken.app.button(key="sk-try").disabled
    looser = text.replace(
        "{signal: denial, role: guardrail, limit: 0.08}", "{signal: denial, role: guardrail, limit: 0.6}"
    )
    broken.app.text_area(key="sk-gates-text").set_value(looser)
    tried = type(shown)(broken.app.run()).press("sk-try")
    assert "1 of 2 actions at their stages would have been judged otherwise" in tried.text
    assert "support / close_ticket" in tried.text
    assert (console.root / "gates.yaml").read_text(encoding="utf-8") == text
