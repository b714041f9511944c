from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from shared_recordings import CALLS, EXAMPLES

from producers.importers.catalog import Catalog, UnknownToolsError
from producers.strict_yaml import ConfigurationFileError
from producers.wire.contract import Reversibility, RiskClass
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
environment: recorded
workflow: bookshop
agent: bookshop-agent
stage: draft_write
tools:
  find_book: {risk_class: search, reversibility: automatic, system: catalogue}
"""


def _load(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    return Catalog.load(path)


def test_a_contract_takes_what_the_catalog_says_and_defaults_for_the_rest() -> None:
    catalog = Catalog.load(EXAMPLES / "catalog.yaml")
    contract = catalog.contract("issue_voucher", conversation="c-1", tool_call="call_1", arguments_sha256="0" * 64)
    assert contract.workflow == "bookshop-goodwill"
    assert contract.risk_class is RiskClass.EXTERNAL_EFFECT
    assert contract.reversibility is Reversibility.NONE
    assert (contract.target.environment, contract.target.system) == ("recorded", "payments")
    assert (contract.conversation, contract.tool_call) == ("c-1", "call_1")
    assert contract.actor.model == "example-model"
    assert contract.intent == "not recorded"
    assert catalog.contract("find_book").workflow == "bookshop"
    assert catalog.stage_of("issue_voucher") is Stage.APPROVAL_GATED
    assert catalog.stage_of("change_address") is Stage.DRAFT_WRITE


def test_the_airline_catalog_knows_every_recorded_tool() -> None:
    assert set(Catalog.load(EXAMPLES / "catalog-airline.yaml").tools) == set(CALLS)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("environment:", "enviroment:", "did you mean `environment`"),
        ("risk_class:", "risk_clas:", r"unknown key `risk_clas` .*did you mean `risk_class`"),
        ("search,", "harmless,", r"tools.find_book.risk_class"),
        ("draft_write", "observe_only", "nothing runs at observe_only"),
        (", system: catalogue", "", "`system` is missing"),
        ("agent: bookshop-agent\n", "", "`agent` is missing"),
        ("  find_book: {risk_class: search, reversibility: automatic, system: catalogue}", "  {}", "at least 1"),
    ],
)
def test_a_bad_catalog_is_refused_with_the_place(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(ConfigurationFileError, match=named):
        _load(tmp_path, GOOD.replace(old, new, 1))


def test_a_tool_cannot_be_recorded_where_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFileError, match="nothing runs at observe_only"):
        _load(tmp_path, GOOD.replace("catalogue}", "catalogue, stage: observe_only}"))


def test_the_stanza_of_a_missing_tool_can_be_pasted(tmp_path: Path) -> None:
    catalog = _load(tmp_path, GOOD)
    with pytest.raises(UnknownToolsError) as refused:
        catalog.require(["find_book", "sell_book"])
    stanza = str(refused.value).partition("\n")[2]
    again = _load(tmp_path, GOOD + stanza)
    assert set(again.tools) == {"find_book", "sell_book"}
    again.require(["find_book", "sell_book"])
    assert yaml.safe_load(stanza)["sell_book"]["system"] == "unknown"
