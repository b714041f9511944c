"""An epoch ends where the policy for its own action changes, and not where the flag file is edited elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from boundary_cases import KEYS, Permit, contract, flagd_file

from producers.boundary.decision_rules import decide
from producers.boundary.flags import FlagEvaluator
from producers.wire.receipt import epoch_of

if TYPE_CHECKING:
    from pathlib import Path


def edited(path: Path, tool: str, variant: str) -> Path:
    """A flag file in which the mode of one tool is another one."""
    stated = json.loads(flagd_file(path).read_text())
    mode = stated["flags"][KEYS["mode"]]
    mode["variants"] = {"autonomous": "autonomous", "search_only": "search_only"}
    mode["defaultVariant"] = "autonomous"
    mode["targeting"] = {"if": [{"==": [{"var": "tool"}, tool]}, variant, None]}
    path.write_text(json.dumps(stated))
    return path


def asked(path: Path, **about: Any) -> tuple[str, str]:
    """The epoch of a decision under a flag file, and the digest of the rules behind it."""
    held = FlagEvaluator.from_file(path)
    try:
        decided = decide(contract(**about), Permit(), held)
        return epoch_of(decided.stage, flags=decided.decision.flags), str(held.sha256)
    finally:
        held.close()


def test_an_edit_elsewhere_in_the_flag_file_does_not_reset_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    before, first = asked(edited(path, "another_tool", "autonomous"))
    after, second = asked(edited(path, "another_tool", "search_only"))
    assert first != second, "the file is another one"
    assert after == before


def test_an_edit_that_touches_the_action_does(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    before, _ = asked(edited(path, "another_tool", "search_only"))
    after, _ = asked(edited(path, "update_ticket", "search_only"))
    assert after != before


def test_a_switch_that_goes_on_and_off_does_not(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    before, _ = asked(flagd_file(path, denylist=False))
    after, _ = asked(flagd_file(path, denylist=True))
    assert after == before
