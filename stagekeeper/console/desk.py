"""The desk of the page: every act as the commands do it, under the name of whoever is at the page."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from analytics.gates.gate_file import GateFile
from analytics.lake.tables import Lake
from analytics.text import iso
from analytics.verdicts.gate_check import sign_off
from analytics.verdicts.signoffs import SignOffKind
from dashboard.act_desk import EmergencySwitch, FlagFacts, RecommendationAnswer, Role, Visitor
from producers.boundary.authorization import FileAuthorizer
from producers.boundary.decision_rules import StagedDecision, decide
from producers.boundary.flag_edit import FlagText
from producers.boundary.flagd_overlays import DENIED, EMERGENCIES, OverlayScope
from producers.boundary.flagd_stages import settings_of
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import DENYLIST, FLAGS, MODE
from producers.boundary.reviewers import Reviewer
from producers.boundary.stage_store import ActionName, StageChange, StageConflictError, StageSetting, StageStore
from producers.errors import StagekeeperError
from producers.wire.stage import MODE_OF_STAGE, STAGE_OF_MODE
from stagekeeper.factory import open_review_store
from stagekeeper.overlay_moves import add_overlay, remove_overlay
from stagekeeper.review_words import approvals_in_words, resolve_review
from stagekeeper.stage_moves import Grounds, in_words, is_upward, move
from stagekeeper.stage_records import grounds_for
from stagekeeper.stage_stores import open_stages

if TYPE_CHECKING:
    from pathlib import Path

    from producers.boundary.approvals import Review, ReviewError
    from producers.wire.contract import ActionContract
    from producers.wire.events import Resolution
    from stagekeeper.settings import Settings

_OVERLAYS: Final = {"fallback": EMERGENCIES, "deny": DENIED}
_ANY_VARIANT: Final = frozenset({"draft", "search_only"})  # what a contract that is tried could run in place of itself


@dataclass(frozen=True)
class ConsoleDesk:
    """Acts on the flag file, the review store and the lake of some settings."""

    settings: Settings
    acts_unauthenticated: bool = False

    @property
    def store_name(self) -> str:
        """The flag file's path, or the service's name."""
        with closing(open_stages(self.settings)) as store:
            return store.name

    @property
    def gates(self) -> Path:
        """The gate file in force."""
        return self.settings.gates

    @property
    def home(self) -> Path:
        """The folder for what is kept beside the lake."""
        return self.settings.home

    @property
    def effect_deadline_s(self) -> float:
        """How long a router may decide by the old stage after a change, in seconds."""
        return self.settings.effect_deadline_s

    @property
    def roles_claim(self) -> str:
        """The claim that holds a person's roles."""
        return self.settings.page_roles_claim

    def now(self) -> datetime:
        """The moment."""
        return datetime.now(UTC)

    def stage(self, action: ActionName) -> StageSetting:
        """What the flag file says about an action; raises `FlagFileError`."""
        with closing(open_stages(self.settings)) as store:
            return store.read(action)

    def preview(self, change: StageChange) -> str:
        """What a change would do to the flag file; raises `StageConflictError` and `FlagFileError`."""
        with closing(open_stages(self.settings)) as store:
            return store.preview(change)

    def change_stage(self, visitor: Visitor, change: StageChange, reason: str) -> StageSetting:
        """Give an action a stage; upward as `stagekeeper stage set` does."""
        visitor.require(Role.OPERATOR, reason)
        with closing(open_stages(self.settings)) as store:
            return self._move(store, visitor, change, reason, grounds=None)

    def answer(self, visitor: Visitor, answer: RecommendationAnswer, reason: str) -> str:
        """Accept a recommendation, and carry it out; or dismiss it."""
        visitor.require(Role.OPERATOR, reason)
        rolls_back = answer.verdict == "ROLL_BACK"
        if not answer.accept:
            kind = SignOffKind.OVERRIDE if rolls_back else SignOffKind.DISMISSAL
            expires_at = self._sign_off(visitor, kind, answer, reason)
            return f"Dismissed until {iso(expires_at)}."
        change = StageChange(answer.action, MODE_OF_STAGE[answer.to_stage], answer.expected_version)
        with closing(open_stages(self.settings)) as store:
            before = _unchanged(store, change)
            if not rolls_back:
                self._sign_off(visitor, SignOffKind.APPROVAL, answer, reason)
                self._move(store, visitor, change, reason, grounds=None)
            elif is_upward(before, change.to):
                raise StageConflictError(
                    f"{answer.action} has the mode {in_words(before)} by now, below {answer.to_stage.value}; a "
                    "rollback goes downward only, and nothing was written"
                )
            else:
                grounds = Grounds(answer.verdict_id, answer.recommendation_id)
                self._move(store, visitor, change, reason, grounds=grounds)
        return f"Accepted and written to {self.store_name}: routers are followed below until all decide by it."

    def switches(self) -> list[EmergencySwitch]:
        """The emergencies and denials in the flag file, where there is one; a service lists its own."""
        if not self.settings.flags.exists():
            return []
        flags = FlagText.load(self.settings.flags)
        return [
            EmergencySwitch("fallback" if overlay is EMERGENCIES else "deny", scope.workflow, scope.tool, scope.account)
            for overlay in _OVERLAYS.values()
            for scope in overlay.scopes(flags)
        ]

    def flip(self, visitor: Visitor, switch: EmergencySwitch, reason: str, *, on: bool) -> str:
        """Let actions fall back, or deny them; or take that back."""
        visitor.require(Role.OPERATOR, reason)
        overlay, scope = _OVERLAYS[switch.kind], OverlayScope(switch.workflow, switch.tool, switch.account)
        act = add_overlay if on else remove_overlay
        with closing(open_stages(self.settings)) as store:
            changed = act(overlay, scope, store, self.settings, actor=visitor.recorded_name, reason=reason.strip())
        words = {"fallback": ("falls back", "resumes"), "deny": ("is denied", "is allowed again")}[switch.kind]
        return f"{scope} {words[not on]}." if changed else f"{scope} was so already; nothing was changed."

    def flags(self) -> list[FlagFacts]:
        """The flags of the file; raises `FlagFileError`."""
        text = FlagText.load(self.settings.flags)
        entries = {
            MODE.key: [f"{setting.action.tool} → {in_words(setting)}" for setting in settings_of(text)]
            + [f"fallback for {scope}" for scope in EMERGENCIES.scopes(text)],
            DENYLIST.key: [f"denied: {scope}" for scope in DENIED.scopes(text)],
        }
        missing = [flag.key for flag in FLAGS if flag.key not in text.flags]
        return [
            *(_flag_facts(key, flag, entries.get(key, [])) for key, flag in text.flags.items()),
            *(FlagFacts(key, "missing", "the safe value", "", "", "", "", "") for key in missing),
        ]

    def decide(self, contract: ActionContract) -> StagedDecision:
        """What the rules in force say to a contract; nothing is recorded, and nothing runs."""
        authorizer = FileAuthorizer.load(self.settings.authorization)
        with closing(FlagEvaluator.from_file(self.settings.flags)) as flags:
            return decide(contract, authorizer, flags, variants=_ANY_VARIANT)

    def reviews(self) -> tuple[list[Review], list[str]]:
        """The actions that wait for a person, and why others cannot be shown."""
        refused: list[ReviewError] = []
        if self.settings.review_database is None and not self.settings.review_store.exists():
            return [], []
        with closing(open_review_store(self.settings)) as store:
            return store.waiting(refused.append), [str(error) for error in refused]

    def resolve(self, visitor: Visitor, decision_id: str, resolution: Resolution, reason: str) -> str:
        """Approve or reject a queued action."""
        visitor.require(Role.REVIEWER, reason)
        reviewer = Reviewer(visitor.name, authenticated=visitor.authenticated)
        with closing(open_review_store(self.settings)) as store:
            review = resolve_review(
                store, self.settings, decision_id, resolution, reviewer=reviewer, rationale=reason.strip()
            )
        if review.resolution is None:
            return f"{decision_id} has {approvals_in_words(review)}, and waits for the rest."
        return f"{decision_id} is {resolution.value}."

    def _move(
        self, store: StageStore, visitor: Visitor, change: StageChange, reason: str, *, grounds: Grounds | None
    ) -> StageSetting:
        before = _unchanged(store, change)
        if grounds is None:
            grounds = Grounds()
            if is_upward(before, change.to, change.share):
                to, root = STAGE_OF_MODE[change.to], self.settings.lake
                grounds = grounds_for(before, to, settings=self.settings, root=root, gate_path=None)
        actor = visitor.recorded_name
        return move(store, change, before, grounds, self.settings, actor=actor, reason=reason.strip())

    def _sign_off(self, visitor: Visitor, kind: SignOffKind, answer: RecommendationAnswer, reason: str) -> datetime:
        lake, now = Lake.existing(self.settings.lake), self.now()
        if lake is None:
            raise StagekeeperError(f"there is no lake at {self.settings.lake}, so there is nothing to answer")
        signoff = sign_off(
            lake,
            GateFile.load(self.settings.gates),
            kind,
            **answer.action._asdict(),
            cohort=answer.cohort,
            to_stage=answer.to_stage.value,
            actor=visitor.recorded_name,
            reason=reason.strip(),
            now=now,
            expires_at=now + answer.holds_for,
        )
        return signoff.expires_at


def _unchanged(store: StageStore, change: StageChange) -> StageSetting:
    """What the store says of an action; `StageConflictError` where that is not what the change was made for."""
    before = store.read(change.action)
    if before.version != change.expected_version:
        raise StageConflictError(
            f"{store.name} is not as you saw it any more, and nothing was written; read the new difference below and "
            "decide again"
        )
    return before


def _flag_facts(key: str, flag: dict[str, Any], entries: list[str]) -> FlagFacts:
    metadata = flag.get("metadata", {})
    default = flag.get("variants", {}).get(flag.get("defaultVariant"))
    targeted = "other targeting" if flag.get("targeting") and not entries else ""
    return FlagFacts(
        key,
        str(flag.get("state")),
        json.dumps(default),
        " · ".join(entries) or targeted,
        *(str(metadata.get(name) or "") for name in ("owner", "kind", "review_date", "cleanup_condition")),
    )
