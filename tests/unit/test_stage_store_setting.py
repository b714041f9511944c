"""Commands on whichever store `STAGEKEEPER_STAGE_STORE` names: FeatBit by its stand-in, and a provider to read only."""

from __future__ import annotations

import json
import sys
import types
from typing import TYPE_CHECKING

import pytest
from featbit_server import ENVIRONMENT, TOKEN, featbit_server
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from stage_cases import ACTION, NAMED, WHO, changes, make_home, run, set_to

from producers.boundary.policy_flags import GOVERNANCE_ENABLED, MODE
from producers.boundary.stage_store import StageStoreError
from producers.errors import SettingsError, UsageError
from stagekeeper.settings import Settings
from stagekeeper.stage_stores import open_stages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featbit_server import FeatBitServer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def featbit(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatBitServer]:
    with featbit_server() as server:
        monkeypatch.setenv("STAGEKEEPER_STAGE_STORE", f"featbit:{server.url}?environment={ENVIRONMENT}")
        monkeypatch.setenv("STAGEKEEPER_STAGE_STORE_TOKEN", TOKEN)
        made = run("flags", "init", "--provider", "featbit", "--owner", "ada@example.org", "--json")
        assert made.exit_code == 0, made.output
        assert json.loads(made.stdout)["flags"][-1] == "agent-action-attempt"
        yield server


def test_flags_are_made_once_and_by_the_service_that_is_named(featbit: FeatBitServer) -> None:
    again = run("flags", "init", "--provider", "featbit", "--owner", "ada@example.org")
    assert (again.exit_code, "they stay as they are" in again.output) == (0, True)
    assert len(featbit.flags) == 6
    other = run("flags", "init", "--provider", "unleash", "--owner", "ada@example.org")
    assert isinstance(other.exception, UsageError)
    assert "STAGEKEEPER_STAGE_STORE names no unleash" in str(other.exception)
    both = run("flags", "init", "--provider", "featbit", "--owner", "ada@example.org", "--out", "x.json")
    assert isinstance(both.exception, UsageError)


def test_a_stage_is_set_shown_and_told_with_its_history(featbit: FeatBitServer, home: Path) -> None:
    done = set_to("observe_only")
    assert done.exit_code == 0, done.output
    assert "issue_refund" in done.output
    (shown,) = json.loads(run("stage", "show", "--json").stdout)["stages"]
    assert (shown["stage"], shown["said_by"]) == ("observe_only", "entry")
    (step,) = json.loads(run("stage", "history", "--json").stdout)
    assert (step["before"], step["after"]) == ("search_only", "observe")
    (change,) = changes(home)
    assert (change.changed_by, change.before, change.after, change.tool) == (
        "maria",
        "search_only",
        "observe",
        ACTION.tool,
    )
    assert run("stage", "revert", *NAMED, *WHO, "--yes").exit_code != 0, "up needs evidence"
    assert featbit.flags[MODE.key]["rules"][0]["name"] == "Stagekeeper: action"


def test_an_emergency_and_the_denylist_work_there(featbit: FeatBitServer, home: Path) -> None:
    assert run("emergency", "fallback", "--tool", "issue_refund", *WHO).exit_code == 0
    (shown,) = json.loads(run("stage", "show", *NAMED, "--json").stdout)["stages"]
    assert shown["emergency"] is True
    assert run("emergency", "resume", "--tool", "issue_refund", *WHO).exit_code == 0
    assert run("flags", "disable", "--tool", "issue_refund", "--anyway", *WHO).exit_code == 0
    assert run("flags", "enable", "--tool", "issue_refund", *WHO).exit_code == 0
    assert [one.flag_key for one in changes(home)] == [
        MODE.key,
        MODE.key,
        "agent-action-denylist",
        "agent-action-denylist",
    ]
    assert all(flag["rules"] == [] for flag in featbit.flags.values())


def test_a_wrong_token_is_named_and_shown_nowhere(featbit: FeatBitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_STAGE_STORE_TOKEN", "another-token-of-somebody")
    refused = set_to("observe_only")
    assert "set STAGEKEEPER_STAGE_STORE_TOKEN" in str(refused.exception)
    assert "another-token" not in f"{refused.output} {refused.exception!r}"
    assert "another-token" not in repr(Settings.load())
    assert Settings.load().as_environment["STAGEKEEPER_STAGE_STORE_TOKEN"].startswith("another-token")
    assert featbit.flags[MODE.key]["rules"] == []


@pytest.mark.parametrize(
    "store",
    [
        "launchdarkly:https://x.example?project=a",
        "unleash",
        "unleash:ftp://x.example?project=a&environment=b",
        "unleash:https://x.example?project=a",
        "unleash:https://x.example?project=a&environment=b&environment=c",
        "unleash:https://ada:secret-word@x.example?project=a&environment=b",
        "featbit:https://x.example",
        "openfeature:no_such_module:make",
        "openfeature:json:loads",
        "openfeature:",
    ],
)
def test_a_store_that_is_none_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setenv("STAGEKEEPER_STAGE_STORE", store)
    monkeypatch.setenv("STAGEKEEPER_STAGE_STORE_TOKEN", "t")
    with pytest.raises(SettingsError, match="STAGEKEEPER_STAGE_STORE") as refused:
        open_stages(Settings.load())
    assert "secret-word" not in str(refused.value)


def test_a_file_that_a_command_names_comes_first(featbit: FeatBitServer, home: Path) -> None:
    done = set_to("observe_only", "--flags", str(home / "flags.json"), "--json")
    assert json.loads(done.stdout)["file"] == str(home / "flags.json")
    assert featbit.flags[MODE.key]["rules"] == []


def any_provider() -> InMemoryProvider:
    values = {MODE.key: "draft_write", GOVERNANCE_ENABLED.key: True, "agent-action-denylist": False}
    return InMemoryProvider({key: InMemoryFlag("set", {"set": value}) for key, value in values.items()})


def test_any_other_provider_is_read_and_refuses_every_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEKEEPER_STAGE_STORE", "openfeature:flags_of_a_user:make")
    module = types.ModuleType("flags_of_a_user")
    module.__dict__["make"] = any_provider
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (shown,) = json.loads(run("stage", "show", *NAMED, "--json").stdout)["stages"]
    assert (shown["stage"], shown["attempt"], shown["said_by"]) == ("draft_write", 1, "other targeting")
    for words in (
        ("stage", "set", *NAMED, "--to", "observe_only", *WHO, "--yes"),
        ("emergency", "fallback", "--everything", *WHO),
        ("emergency", "resume", "--everything", *WHO),
        ("flags", "disable", "--tool", "issue_refund", "--anyway", *WHO),
    ):
        refused = run(*words)
        assert "is read-only: OpenFeature cannot change flags" in str(refused.exception)
    assert changes(home) == []
    assert "is read-only, so nothing can be enacted" in str(run("worker", "--enact").exception)
    store = open_stages(Settings.load())
    with pytest.raises(StageStoreError, match="keep the flags in a flagd file, Unleash or FeatBit"):
        store.start_attempt(ACTION, earlier=1, before_write=lambda *_: None)
    assert (store.newest_replaced(), store.had("x"), list(store.steps())) == ("", False, [])
    store.close()
