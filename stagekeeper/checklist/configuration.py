"""The checklist's points about the flag file and the authorization file."""

from __future__ import annotations

import itertools
import tempfile
from contextlib import closing
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from producers.boundary.authorization import FileAuthorizer
from producers.boundary.decision_rules import READS, apply_rules
from producers.boundary.flag_edit import FlagFileError, FlagText
from producers.boundary.flagd_overlays import DENIED, OverlayScope
from producers.boundary.flags import FlagEvaluator, FlagValues
from producers.boundary.policy_flags import (
    APPROVAL_REQUIRED,
    CONFIDENCE_THRESHOLD,
    DENYLIST,
    FLAGS,
    GOVERNANCE_ENABLED,
    MODE,
    Flag,
    flag_context,
)
from producers.strict_yaml import ConfigurationFileError
from producers.wire.contract import ActionContract, Actor, Reversibility, RiskClass, Target
from producers.wire.decision import Authorization
from producers.wire.stage import Mode
from stagekeeper.checklist.point import Point, failed, pass_unless, passed

if TYPE_CHECKING:
    from collections.abc import Iterable

_HARMLESS_MODES = {Mode.OFF, Mode.OBSERVE, Mode.SEARCH_ONLY, Mode.FALLBACK}
_OUTCOMES = {"allow", "constrain", "queue_for_review", "deny", "fallback"}
_STRANGER = "a-tool-that-nobody-has-written-a-rule-for"


def flag_points(path: Path, *, today: date) -> list[Point]:
    """Points 2, 4, 8 and 10."""
    try:
        flags = FlagText.load(path).flags
    except FlagFileError as error:
        return [failed(number, str(error)) for number in (2, 4, 8, 10)]
    return [_defaults(flags), _outcomes(flags), _alone(path), _owned(flags, today)]


def authorization_point(path: Path, environments: Iterable[str]) -> Point:
    """Point 5: what no rule names is refused, in every environment that is known."""
    try:
        authorizer = FileAuthorizer.load(path)
    except ConfigurationFileError as error:
        return failed(5, str(error))
    tried = sorted({"production", *environments})
    answers = {where: authorizer.authorize(_contract(_STRANGER, RiskClass.IRREVERSIBLE, where)) for where in tried}
    permitted = [f"{answer.rule} in {environment}" for environment, answer in answers.items() if answer.permitted]
    if permitted:
        return failed(5, f"an unheard-of, irreversible tool is permitted by {', '.join(permitted)}")
    return passed(5, f"an unheard-of, irreversible tool is refused in {', '.join(tried)}")


def _defaults(flags: dict[str, Any]) -> Point:
    faults = [f"{flag.key} is missing (its safe value applies)" for flag in FLAGS if flag.key not in flags]
    mode, approval, threshold = (_default(flags, flag) for flag in (MODE, APPROVAL_REQUIRED, CONFIDENCE_THRESHOLD))
    for flag, value, safe in (
        (MODE, mode, mode in _HARMLESS_MODES),
        (APPROVAL_REQUIRED, approval, approval is True),
        (CONFIDENCE_THRESHOLD, threshold, isinstance(threshold, int | float) and 0 < threshold <= 1),
    ):
        if flag.key in flags and not safe:
            faults.append(f"{flag.key} is {value!r} unless targeting says otherwise")
    return pass_unless(2, faults, f"{MODE.key} is {_default(flags, MODE)!r}, a person approves")


def _outcomes(flags: dict[str, Any]) -> Point:
    """Which outcomes the variants in the file can lead to, by trying all of them."""
    variants = {flag.key: flags.get(flag.key, {}).get("variants", {}).values() for flag in FLAGS}
    values = {flag.key: list(filter(flag.accepts, variants[flag.key])) or [flag.safe] for flag in FLAGS}
    if any(isinstance(value, list) for value in values[DENYLIST.key]):
        values[DENYLIST.key] = [True, False]  # a list of tools denies those alone
    reached: set[str] = set()
    yes = Authorization(permitted=True, rule="any")
    for enabled, denied, mode, approval, threshold in itertools.product(
        *(values[flag.key] for flag in (GOVERNANCE_ENABLED, DENYLIST, MODE, APPROVAL_REQUIRED, CONFIDENCE_THRESHOLD))
    ):
        answers = FlagValues(
            ruleset_sha256="0" * 64,
            enabled=enabled is True,
            denied=denied is not False,
            mode=Mode(mode),
            approval_required=approval is not False,
            confidence_threshold=float(threshold),
            evaluations=(),
        )
        for risk in RiskClass:
            contract = _contract(_STRANGER, risk, "production")
            reached.add(apply_rules(contract, yes, "0" * 64, answers, frozenset()).decision.result.outcome)
    if missing := sorted(_OUTCOMES - reached):
        return failed(4, f"no variant leads to {', '.join(missing)}")
    return passed(4, "all five are reached by variants in the file")


def _alone(path: Path) -> Point:
    """Try it on a copy: one tool is switched off, another one answers as before."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        mine, others = (
            flag_context(_contract(tool, RiskClass.SEARCH, "production")) for tool in ("one-tool", "another")
        )
        with closing(FlagEvaluator.from_file(copy)) as before:
            unchanged = before.evaluate(others)
        try:
            DENIED.add(copy, OverlayScope(tool="one-tool"))
        except FlagFileError as error:
            return failed(8, str(error))
        with closing(FlagEvaluator.from_file(copy)) as after:
            off, still = after.evaluate(mine).denied, after.evaluate(others)
    answers = attrgetter("enabled", "denied", "mode", "approval_required", "confidence_threshold")
    same = answers(still) == answers(unchanged)
    if off and same:
        return passed(8, "tried on a copy: one tool is switched off, and another answers as before")
    return failed(8, f"tried on a copy: switched off {off}, others as before {same}")


def _owned(flags: dict[str, Any], today: date) -> Point:
    faults: list[str] = []
    for key, flag in flags.items():
        metadata = flag.get("metadata", {}) if isinstance(flag, dict) else {}
        if not metadata.get("owner"):
            faults.append(f"{key} has no owner")
        if metadata.get("kind") == "permanent":
            continue
        if not metadata.get("cleanup_condition"):
            faults.append(f"{key} has no cleanup condition")
        try:
            due = date.fromisoformat(str(metadata.get("review_date")))
        except ValueError:
            faults.append(f"{key} has no review date")
            continue
        if due < today:
            faults.append(f"{key} was due for review on {due.isoformat()}")
    return pass_unless(10, faults, f"{len(flags)} flags, all owned; the temporary ones dated and with an end")


def _default(flags: dict[str, Any], flag: Flag) -> Any:  # noqa: ANN401 - a flag's value
    stated = flags.get(flag.key, {})
    return stated.get("variants", {}).get(stated.get("defaultVariant"))


def _contract(tool: str, risk: RiskClass, environment: str) -> ActionContract:
    return ActionContract(
        actor=Actor(agent="nobody-in-particular"),
        intent="the checklist asks",
        target=Target(environment=environment, system="any"),
        tool=tool,
        workflow="any",
        risk_class=risk,
        reversibility=Reversibility.AUTOMATIC if risk in READS else Reversibility.MANUAL,
    )
