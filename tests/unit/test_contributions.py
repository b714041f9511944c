"""What each signal contributed to a verdict, and what would change it."""

from __future__ import annotations

import pytest
from verdict_cases import a_row, document_of, executions, gate_file, verdict_on

from analytics.evidence.sequential import crosses, log_e_value


def test_it_says_what_each_guardrail_contributed_and_what_would_change_it() -> None:
    gates = gate_file(
        "signal: execution_error, role: guardrail, limit: 0.02",
        "signal: timeout, role: guardrail, limit: 0.02, weight: 3",
        "signal: denial, role: promote, limit: 0.02",
    )
    found = verdict_on(gates, a_row(**executions(100, 5, timed_out=1)))
    errors, timeouts, denials = document_of(found)["signals"]
    assert errors["contribution"] + timeouts["contribution"] == pytest.approx(1.0)
    assert errors["contribution"] > timeouts["contribution"] > 0
    assert denials["contribution"] is None
    # The forecast is the first number of trials at this rate whose evidence suffices alone.
    more, level = errors["more_to_harm"], 0.05 / 4
    assert not crosses(log_e_value(5 + 0.05 * (more - 1), 100 + more - 1, 0.02, direction="above"), level)
    assert crosses(log_e_value(5 + 0.05 * more, 100 + more, 0.02, direction="above"), level)
    assert errors["more_needed"] is None
    assert timeouts["more_to_harm"] is None
    assert timeouts["more_needed"] > 0
