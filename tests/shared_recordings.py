"""Where the conversations that nobody here wrote are: beside this repository, never inside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

CALLS = {
    "get_reservation_details": (377, 0),
    "search_direct_flight": (141, 0),
    "get_user_details": (120, 0),
    "update_reservation_flights": (104, 42),
    "calculate": (96, 0),
    "think": (92, 0),
    "cancel_reservation": (69, 0),
    "book_reservation": (53, 30),
    "transfer_to_human_agents": (48, 0),
    "search_onestop_flight": (38, 0),
    "update_reservation_baggages": (14, 1),
    "send_certificate": (8, 0),
    "list_all_airports": (2, 0),
    "update_reservation_passengers": (2, 0),
}
"""Calls and failed calls by tool, counted by hand in the recorded file."""

_SET = os.environ.get("STAGEKEEPER_RECORDED_CALLS")
FILE = Path(_SET) if _SET else ROOT.parent / "shared" / "data" / "tau-airline-gpt4o.json"

needs_recorded_calls = pytest.mark.skipif(
    not FILE.is_file(), reason=f"the recorded calls are not at {FILE}; set STAGEKEEPER_RECORDED_CALLS to the file"
)
