from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from boundary_cases import KEYS, contract, flagd_file

from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import flag_context

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = flag_context(contract(account="acct-1"))

BROKEN = {
    "nothing": {},
    "no state": {"variants": {"on": True}, "defaultVariant": "on"},
    "no variants": {"state": "ENABLED", "defaultVariant": "on"},
    "another state": {"state": "MAYBE", "variants": {"on": True}},
    "empty variants": {"state": "ENABLED", "variants": {}},
    "variants in a list": {"state": "ENABLED", "variants": ["on"]},
    "a default that is a number": {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": 7},
    "a field of a later flagd": {"state": "ENABLED", "variants": {"on": True}, "rollout": 3},
    "metadata in a list": {"state": "ENABLED", "variants": {"on": True}, "metadata": ["owner"]},
    "null metadata": {"state": "ENABLED", "variants": {"on": True}, "metadata": {"owner": None}},
    "no object": "on",
    "null": None,
}


@pytest.mark.parametrize("flag", BROKEN.values(), ids=BROKEN)
def test_a_broken_flag_breaks_itself_alone_and_is_named(
    tmp_path: Path, flag: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "flags.json"
    flagd_file(path, mode="expanded")
    document = json.loads(path.read_text())
    before = answers(path)
    path.write_text(json.dumps(document | {"flags": {"somebody-elses": flag} | document["flags"]}))
    assert answers(path) == before
    assert "'somebody-elses'" in caplog.text
    path.write_text(json.dumps(document | {"flags": document["flags"] | {KEYS["mode"]: flag}}))
    ours = answers(path)
    _, error = ours.pop(KEYS["mode"])
    assert repr(KEYS["mode"]) in (error or "")
    assert ours == {key: answer for key, answer in before.items() if key != KEYS["mode"]}


def answers(path: Path) -> dict[str, tuple[str | None, str | None]]:
    held = FlagEvaluator.from_file(path)
    try:
        assert held.ready
        return {one.key: (one.variant, one.error) for one in held.evaluate(CONTEXT).evaluations}
    finally:
        held.close()
