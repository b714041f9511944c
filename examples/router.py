"""A tool router: two tools behind one boundary. It needs no broker: without one, its records wait on disk."""

# ruff: noqa: INP001, T201 - an example is a script, and it prints
from __future__ import annotations

from pathlib import Path

import stagekeeper as sk

here = Path(__file__).parent
files = {"authorization": here / "authorization.yaml", "flags": here / "flags.json"}
with sk.open_router(source="/routers/example", environment="production", agent="support-bot", **files) as router:

    @router.action(workflow="refunds", system="billing", risk_class="scoped_read", reversibility="automatic")
    def get_order(order: str) -> str:
        """Look an order up: a read, allowed at every stage."""
        return f"order {order}: one book, 12 euros"

    @router.action(
        workflow="refunds",
        system="billing",
        risk_class="external_effect",
        reversibility="manual",
        draft=lambda order, euros: f"drafted {euros} euros for {order}",  # what runs where the flags say draft_write
    )
    def issue_refund(order: str, euros: int) -> str:
        """Pay a customer back: only for the accounts to which the flags release it."""
        return f"refunded {euros} euros for {order}"

    for account in (f"acct-{number}" for number in range(8, 13)):
        with sk.acting(account=account, intent="the customer was charged twice", confidence=0.9):
            try:
                print(account, "|", get_order("4711"), "|", issue_refund("4711", euros=12))
            except sk.RefusedError as refusal:
                print(account, "|", refusal)
