"""What a flag may answer for an action is what flagd's engine does answer, for whomever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import DENYLIST, MODE
from producers.boundary.possible_values import possible_values
from producers.boundary.stage_store import ActionName
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from pathlib import Path

ACTION = ActionName("production", "refunds", "issue_refund")
TOOL: Any = {"==": [{"var": "tool"}, "issue_refund"]}
OTHER: Any = {"!=": [{"var": "workflow"}, "refunds"]}
ACCOUNT: Any = {"==": [{"var": "account"}, "acct-1"]}
SHARES: Any = {"fractional": [["autonomous", 30], ["draft_write", 70], ["expanded", 0]]}

CASES: dict[str, tuple[Any, set[str]]] = {
    "nothing": (None, {"search_only"}),
    "a variant": ({"if": [TOOL, "draft_write"]}, {"draft_write"}),
    "nobody's": ({"if": [OTHER, "draft_write"]}, {"search_only"}),
    "else": ({"if": [OTHER, "draft_write", "expanded"]}, {"expanded"}),
    "the account": ({"if": [ACCOUNT, "autonomous", TOOL, "observe", "off"]}, {"autonomous", "observe"}),
    "and, settled": ({"if": [{"and": [OTHER, ACCOUNT]}, "autonomous", "observe"]}, {"observe"}),
    "and, open": ({"if": [{"and": [TOOL, ACCOUNT]}, "autonomous", "observe"]}, {"autonomous", "observe"}),
    "or, settled": ({"if": [{"or": [ACCOUNT, TOOL]}, "autonomous", "observe"]}, {"autonomous"}),
    "or, open": ({"if": [{"or": [OTHER, ACCOUNT]}, "autonomous", "observe"]}, {"autonomous", "observe"}),
    "not": ({"if": [{"!": [TOOL]}, "autonomous", {"!": {"var": "workflow"}}, "off", "observe"]}, {"observe"}),
    "in a list": ({"if": [{"in": [{"var": "tool"}, ["a", "issue_refund"]]}, "autonomous"]}, {"autonomous"}),
    "a prefix": ({"if": [{"starts_with": [{"var": "tool"}, "issue"]}, "autonomous"]}, {"autonomous"}),
    "shares": (SHARES, {"autonomous", "draft_write"}),
    "shares of somebody's": ({"if": [ACCOUNT, "off", SHARES]}, {"off", "autonomous", "draft_write"}),
    "what is not looked into": ({"if": [{"sem_ver": [{"var": "v"}, ">", "1.0.0"]}, "off"]}, {"off", "search_only"}),
    "an evaluator": ({"if": [{"$ref": "ours"}, "autonomous", "observe"]}, {"autonomous", "observe"}),
    "a variant by a variable": ({"var": "region"}, {*map(str, Mode)}),
    "no variant": ({"if": [TOOL, "nothing of the kind"]}, {"search_only"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_answer_of_the_engine_is_foreseen_and_none_that_the_action_excludes(tmp_path: Path, name: str) -> None:
    targeting, expected = CASES[name]
    flag = {
        "state": "ENABLED",
        "variants": {mode.value: mode.value for mode in Mode},
        "defaultVariant": "search_only",
        "targeting": targeting or {},
    }
    flags = {MODE.key: flag}
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": flags, "$evaluators": {"ours": ACCOUNT}}))
    foreseen = set(possible_values(flags, MODE, ACTION, targeting))
    assert foreseen == expected
    held = FlagEvaluator.from_file(path)
    try:
        for number in range(40):
            more = {"account": f"acct-{number}", "region": ["eu", "off"][number % 2], "v": f"{number % 3}.2.0"}
            attributes = tuple(sorted({**ACTION._asdict(), **more}.items()))
            assert held.evaluate((f"acct-{number}", attributes)).mode.value in foreseen
    finally:
        held.close()


@pytest.mark.parametrize(
    "flag", [None, [], {"state": "DISABLED", "variants": {"a": "off"}, "defaultVariant": "a"}, {"state": "ENABLED"}]
)
def test_a_flag_that_cannot_decide_has_its_safe_value(flag: Any) -> None:
    assert possible_values({MODE.key: flag}, MODE, ACTION, {"if": [TOOL, "a"]}) == (MODE.safe,)


@pytest.mark.parametrize(("tools", "value"), [(["issue_refund"], True), (["another"], False), ([1], True)])
def test_the_denylist_may_be_a_list_of_tools(tools: list[Any], value: bool) -> None:
    flags = {DENYLIST.key: {"state": "ENABLED", "variants": {"listed": tools}, "defaultVariant": "listed"}}
    assert possible_values(flags, DENYLIST, ACTION, None) == (value,)
