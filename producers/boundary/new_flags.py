"""Flags as they are written for somebody who has none yet, in flagd's format: nothing acts by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from producers.boundary import policy_flags
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from datetime import date

    from producers.boundary.policy_flags import Flag, FlagValue


class _Template(NamedTuple):
    variants: dict[str, FlagValue]
    default: str
    cleanup_condition: str | None = None  # None for that of whoever asks: the flag is temporary


_TEMPLATES: Final = {
    policy_flags.GOVERNANCE_ENABLED: _Template({"on": True, "off": False}, "on", "never: it is the emergency stop"),
    policy_flags.DENYLIST: _Template(
        {"denied": True, "clear": False}, "clear", "never: each entry goes with `stagekeeper flags enable`"
    ),
    policy_flags.MODE: _Template({mode.value: mode.value for mode in Mode}, Mode.SEARCH_ONLY.value),
    policy_flags.APPROVAL_REQUIRED: _Template({"on": True, "off": False}, "on"),
    policy_flags.CONFIDENCE_THRESHOLD: _Template(
        {"usual": policy_flags.CONFIDENCE_THRESHOLD.safe}, "usual", "never: it is a limit, not a roll-out"
    ),
    policy_flags.ATTEMPT: _Template({"1": "1"}, "1", "never: each attempt is an entry of its own"),
}


def new_flag(flag: Flag, *, owner: str, review_date: date | None = None, cleanup_condition: str = "") -> dict[str, Any]:
    """One flag, with what its metadata must say; `cleanup_condition` is for one that is temporary."""
    template = _TEMPLATES[flag]
    return {
        "state": "ENABLED",
        "variants": template.variants,
        "defaultVariant": template.default,
        "metadata": {
            "owner": owner,
            "kind": "temporary" if template.cleanup_condition is None else "permanent",
            "description": flag.purpose,
            **({} if review_date is None else {"review_date": review_date.isoformat()}),
            "cleanup_condition": template.cleanup_condition or cleanup_condition,
        },
    }


def new_flag_file(*, owner: str, review_date: date, cleanup_condition: str) -> str:
    """A flagd file with all flags: searches and scoped reads run, and a person approves what has consequences."""
    flags = {
        flag.key: new_flag(flag, owner=owner, review_date=review_date, cleanup_condition=cleanup_condition)
        for flag in _TEMPLATES
    }
    document = {"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": flags}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
