"""Stages in FeatBit, against its published management API: every request is checked by the stand-in."""

from __future__ import annotations

import contextlib
from datetime import date
from typing import TYPE_CHECKING

import pytest
from featbit_server import ENVIRONMENT, TOKEN, featbit_server
from flag_service_cases import CLOSE, REFUND, StoreLaws, put

from producers.boundary.flagd_overlays import EMERGENCIES, OverlayScope
from producers.boundary.policy_flags import MODE
from producers.boundary.stage_store import StageConflictError, StageStoreError
from producers.flag_services.featbit_flags import FeatBitFlags
from producers.flag_services.flag_service import first_flags
from producers.flag_services.management_api import ManagementApi, OutcomeUnknownError
from producers.flag_services.service_stages import ServiceStages
from producers.wire.stage import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featbit_server import FeatBitServer

NEW = first_flags(owner="ada@example.org", review_date=date(2027, 3, 1), cleanup_condition="all are expanded")


@pytest.fixture
def server() -> Iterator[FeatBitServer]:
    with featbit_server() as running:
        yield running


@pytest.fixture
def store(server: FeatBitServer) -> Iterator[ServiceStages]:
    with contextlib.closing(ManagementApi("FeatBit", server.url, TOKEN, 1.0, sleep=lambda _: None)) as api:
        flags = FeatBitFlags(api, ENVIRONMENT)
        assert [flags.create(new) for new in NEW] == [True] * len(NEW)
        yield ServiceStages(flags)


class TestFeatBitStages(StoreLaws):
    """Everything that a store does."""


def test_flags_are_made_once_and_described(server: FeatBitServer, store: ServiceStages) -> None:
    assert not any(store.service.create(new) for new in NEW)
    mode = server.flags[MODE.key]
    assert "owner: ada@example.org\nkind: temporary\nreview_date: 2027-03-01" in mode["description"]
    assert mode["tags"] == ["stagekeeper", "temporary"]
    off = {one["id"]: one["value"] for one in mode["variations"]}[mode["disabledVariationId"]]
    assert (mode["isEnabled"], off) == (True, "search_only")


def test_a_share_is_refused_for_each_flag_would_choose_other_accounts(store: ServiceStages) -> None:
    put(store, REFUND, Mode.AUTONOMOUS)
    with pytest.raises(StageStoreError, match="chooses other accounts in each flag"):
        put(store, REFUND, Mode.EXPANDED, share=25)
    assert put(store, REFUND, Mode.EXPANDED).mode is Mode.EXPANDED


def test_a_rule_of_somebody_keeps_every_key_that_it_has(server: FeatBitServer, store: ServiceStages) -> None:
    put(store, CLOSE, Mode.OBSERVE)
    rules = server.flags[MODE.key]["rules"]
    mine = {**rules[0], "id": "b0a7e6d2-0000-4000-8000-000000000001", "name": "mine", "includedInExpt": True}
    server.change({**server.flags[MODE.key], "rules": [*rules, mine]})
    put(store, REFUND, Mode.DRAFT_WRITE)
    assert mine in server.flags[MODE.key]["rules"]


def test_somebody_who_writes_in_the_same_moment_wins(server: FeatBitServer, store: ServiceStages) -> None:
    def toggle() -> None:
        server.change({**server.flags[MODE.key], "name": "by hand"})

    server.before = toggle
    with pytest.raises(StageConflictError, match="somebody else has changed it"):
        put(store, REFUND, Mode.AUTONOMOUS)
    assert (store.settings(), server.flags[MODE.key]["name"]) == ([], "by hand")


@pytest.mark.parametrize("status", [500, 502, 0])
def test_a_write_that_was_made_without_an_answer_is_not_made_again(
    server: FeatBitServer, store: ServiceStages, status: int
) -> None:
    put(store, REFUND, Mode.DRAFT_WRITE)
    server.after = lambda: status
    assert put(store, REFUND, Mode.AUTONOMOUS).mode is Mode.AUTONOMOUS
    assert len([entry for entry in server.log if entry["refId"] == server.flags[MODE.key]["id"]]) == 3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
def test_a_write_that_was_not_made_is_made_again(server: FeatBitServer, store: ServiceStages, status: int) -> None:
    server.before = lambda: status
    assert put(store, REFUND, Mode.AUTONOMOUS).mode is Mode.AUTONOMOUS
    assert len(server.flags[MODE.key]["rules"]) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422])
def test_a_write_that_is_refused_is_not_made_again(server: FeatBitServer, store: ServiceStages, status: int) -> None:
    server.before = lambda: status
    with pytest.raises((StageStoreError, StageConflictError)) as refused:
        put(store, REFUND, Mode.AUTONOMOUS)
    assert TOKEN not in str(refused.value)
    assert store.settings() == []
    assert [asked for asked in server.asked if asked.startswith("PUT")] == [f"PUT {_path(MODE.key)}/targeting"]


def _path(key: str) -> str:
    return f"/api/v1/envs/{ENVIRONMENT}/feature-flags/{key}"


def test_a_service_that_stays_broken_is_left_alone_after_the_deadline(
    server: FeatBitServer, store: ServiceStages
) -> None:
    def again() -> int:
        server.before = again
        return 500

    server.before = again
    with pytest.raises(OutcomeUnknownError, match="whether it was made is not known"):
        put(store, REFUND, Mode.AUTONOMOUS)
    server.before = None
    assert store.settings() == []


def test_users_that_are_targeted_one_by_one_stand_before_an_emergency_and_that_is_said(
    server: FeatBitServer, store: ServiceStages
) -> None:
    flag = server.flags[MODE.key]
    server.change({**flag, "targetUsers": [{"keyIds": ["acct-1"], "variationId": flag["variations"][0]["id"]}]})
    with pytest.raises(StageStoreError, match="stand before that"):
        store.cover(EMERGENCIES, OverlayScope())
    assert store.read(REFUND).emergency, "for everybody else"


def test_a_flag_that_is_off_is_refused_by_name(server: FeatBitServer, store: ServiceStages) -> None:
    server.change({**server.flags[MODE.key], "isEnabled": False})
    assert store.read(REFUND).mode is Mode.SEARCH_ONLY
    with pytest.raises(StageStoreError, match="is off in FeatBit"):
        put(store, REFUND, Mode.AUTONOMOUS)


def test_another_service_at_the_address_is_named(server: FeatBitServer) -> None:
    api = ManagementApi("FeatBit", f"{server.url}/elsewhere", TOKEN, 1.0)
    with contextlib.closing(api), pytest.raises(StageStoreError, match="it answers 400"):
        ServiceStages(FeatBitFlags(api, ENVIRONMENT)).read(REFUND)
    server.faults.clear()
