"""Whatever becomes of a flag file, its mount, its watcher or its process: what is switched off stays off, and what is
written next is in force."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from boundary_cases import KEYS, Permit, Shelf, contract, flagd_file, in_child

from producers.boundary import flagd_file as flag_files
from producers.boundary.flag_edit import FlagFileError
from producers.boundary.flagd_file import FlagFile
from producers.boundary.flagd_overlays import DENIED, OverlayScope
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import flag_context
from producers.boundary.router import Router
from producers.delivery.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from producers.boundary.flags import FlagValues

CONTEXT = flag_context(contract(account="acct-1"))
SAFE = (False, True, "search_only")


def _answers(values: FlagValues) -> tuple[bool, bool, str]:
    return values.enabled, values.denied, values.mode.value


def _wait_until(what: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(1_000):
        if what():
            return
        waited.wait(0.01)
    raise AssertionError("it never came to be")


def _nested(rule: object, wrap: Callable[[object], object], times: int) -> object:
    for _ in range(times):
        rule = wrap(rule)
    return rule


def _targeted(path: Path, targeting: str) -> None:
    document = json.loads(flagd_file(path, mode="autonomous").read_text())
    document["flags"][KEYS["mode"]]["targeting"] = "here"
    path.write_text(json.dumps(document).replace('"here"', targeting))


def _by_if(path: Path) -> None:
    _targeted(path, '{"if": [true, "set", ' * 250 + "null" + "]}" * 250)


def _by_not(path: Path) -> None:
    _targeted(path, '{"!": ' * 400 + "true" + "}" * 400)


def _by_brackets(path: Path) -> None:
    path.write_text("[" * 100_000)


def _by_closed_brackets(path: Path) -> None:
    path.write_text('{"flags": {}, "x": ' + "[" * 100_000 + "]" * 100_000 + "}")


def _by_digits(path: Path) -> None:
    path.write_text('{"flags": {}, "x": ' + "9" * 10_000 + "}")


def _by_size(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(flagd_file(path).read_text()), "x": "x" * 2_000_000}))


def _by_evaluators(path: Path) -> None:
    document = json.loads(flagd_file(path, mode="autonomous").read_text())
    document["$evaluators"] = {f"e{n}": {"and": [{"$ref": f"e{n + 1}"}] * 2} for n in range(26)} | {"e26": True}
    document["flags"][KEYS["mode"]]["targeting"] = {"if": [{"$ref": "e0"}, "set", None]}
    path.write_text(json.dumps(document))


def _by_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def _by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _by_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _by_nobody(path: Path) -> None:
    path.unlink()


FAULTS = [
    _by_if,
    _by_not,
    _by_brackets,
    _by_closed_brackets,
    _by_digits,
    _by_size,
    _by_evaluators,
    _by_bytes,
    _by_fifo,
    _by_folder,
    _by_device,
    _by_loop,
    _by_nobody,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return flagd_file(tmp_path / "flags.json", mode="autonomous")


@pytest.mark.parametrize("spoil", FAULTS)
def test_what_cannot_be_read_gives_the_safe_values_and_what_is_written_next_is_in_force(
    path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    held = FlagEvaluator.from_file(path)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        spoil(path)
        _wait_until(lambda: (_answers(held.evaluate(CONTEXT)), held.ready) == (SAFE, False))
        if path.is_dir():
            path.rmdir()
        flagd_file(path.parent / "next.json", mode="draft_write").replace(path)
        _wait_until(lambda: (held.evaluate(CONTEXT).mode, held.ready) == ("draft_write", True))
    finally:
        held.close()
    assert [record for record in caplog.records if str(path) in record.getMessage()], "it is named"
    assert len(caplog.records) <= 2, "once, and perhaps once that it was gone"


@pytest.mark.parametrize("spoil", [_by_if, _by_not, _by_brackets, _by_size, _by_fifo, _by_folder])
def test_nothing_is_switched_off_with_success_in_a_file_that_routers_cannot_read(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    with pytest.raises(FlagFileError, match=str(path)):
        DENIED.add(path, OverlayScope(tool="update_ticket"))


def test_an_edit_that_keeps_size_and_dates_is_in_force(path: Path) -> None:
    os.utime(path, (1_000, 1_000))
    held = FlagEvaluator.from_file(path)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        text = path.read_text()
        path.write_text(text.replace("autonomous", "observexxx"))
        os.utime(path, (1_000, 1_000))
        _wait_until(lambda: held.evaluate(CONTEXT).mode == "search_only")
    finally:
        held.close()


def test_a_child_after_fork_sees_what_is_switched_off(path: Path) -> None:
    document = json.loads(path.read_text())
    document["flags"][KEYS["denylist"]]["variants"]["denied"] = True
    path.write_text(json.dumps(document))
    held, shelf = FlagEvaluator.from_file(path), Shelf()
    router = Router(
        authorizer=Permit(), flags=held, recorder=Recorder(shelf, source="/t"), environment="production", agent="bot"
    )

    @router.action(workflow="w", system="s", risk_class="reversible_write", reversibility="automatic")
    def write() -> str:
        return "ran"

    def child() -> str:
        answers = [write()]
        DENIED.add(path, OverlayScope(tool="write"))
        _wait_until(lambda: held.evaluate(flag_context(contract(tool="write"))).denied)
        try:
            answers.append(write())
        except Exception as error:  # noqa: BLE001 - its name is the answer
            answers.append(type(error).__name__)
        return " ".join([*answers, str(held.ready)])

    try:
        assert write() == "ran"
        assert in_child(child) == "ran ActionDeniedError True"
    finally:
        held.close()


def test_a_child_after_fork_decides_nothing_by_what_its_parent_has_read(path: Path) -> None:
    held = FlagEvaluator.from_file(path)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        path.unlink()

        def child() -> str:
            return f"{held.evaluate(CONTEXT).mode} {held.ready}"

        assert in_child(child) == "search_only False"
    finally:
        held.close()


def test_who_holds_a_lock_at_the_fork_does_not_hold_up_the_child(path: Path) -> None:
    provider = FlagFile(path)
    held = FlagEvaluator(provider, deadline_s=5)
    router = Router(
        authorizer=Permit(), flags=held, recorder=Recorder(Shelf(), source="/t"), environment="production", agent="bot"
    )

    @router.action(workflow="w", system="s", risk_class="search", reversibility="automatic")
    def search() -> str:
        return "ran"

    locks = (held._lock, held._calls._turn, provider._turn, router._calls._shared_calls._calls._lock)  # noqa: SLF001 - the fault
    try:
        with ExitStack() as all_of_them:
            for lock in locks:
                all_of_them.enter_context(lock)
            answer = in_child(lambda: f"{search()} {held.ready}", timeout_s=20)
    finally:
        held.close()
    assert answer == "ran True"


class Mount:
    """Hangs as a mount whose server is away, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()
        self._read = flag_files.read_flag_file
        monkeypatch.setattr(flag_files, "read_flag_file", self)

    def __call__(self, path: Path) -> bytes:
        self.asked.set()
        self.answers.wait(30)
        text: bytes = self._read(path)
        return text

    def hang(self) -> None:
        self.answers.clear()
        self.asked.clear()
        assert self.asked.wait(10)


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    held = Mount(monkeypatch)
    yield held
    held.answers.set()


def test_rules_that_cannot_be_confirmed_within_their_lease_decide_nothing(
    path: Path, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    moment = [100.0]
    held = FlagEvaluator(FlagFile(path, poll_s=0.005, clock=lambda: moment[0]), deadline_s=0.02)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        mount.hang()
        moment[0] += 0.9
        assert held.evaluate(CONTEXT).mode == "autonomous", "within the lease"
        moment[0] += 0.2
        values = held.evaluate(CONTEXT)
        assert (_answers(values), held.ready) == (SAFE, False)
        assert all("PROVIDER_NOT_READY" in (record.error or "") for record in values.evaluations)
        held.evaluate(CONTEXT)
        assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
        mount.answers.set()
        _wait_until(lambda: (held.evaluate(CONTEXT).mode, held.ready) == ("autonomous", True))
    finally:
        held.close()


def test_past_the_lease_the_caller_has_the_file_looked_at(path: Path) -> None:
    moment = [100.0]
    held = FlagEvaluator(FlagFile(path, poll_s=3_600, clock=lambda: moment[0]), deadline_s=30)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        flagd_file(path.parent / "next.json", mode="off").replace(path)
        moment[0] += 1.1
        assert held.evaluate(CONTEXT).mode == "off"
    finally:
        held.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its death is meant
def test_a_watcher_that_dies_is_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moment = [100.0]
    provider = FlagFile(path, poll_s=0.005, clock=lambda: moment[0])
    held = FlagEvaluator(provider, deadline_s=30)
    try:
        assert held.evaluate(CONTEXT).mode == "autonomous"
        with monkeypatch.context() as broken:

            def die(_path: Path) -> bytes:
                raise SystemExit

            broken.setattr(flag_files, "read_flag_file", die)
            watcher = next(thread for thread in threading.enumerate() if thread.name == "stagekeeper-flags")
            watcher.join(10)
            assert not watcher.is_alive()
        flagd_file(path.parent / "next.json", mode="off").replace(path)
        moment[0] += 1.1
        assert held.evaluate(CONTEXT).mode == "off"
    finally:
        held.close()


async def test_a_mount_that_hangs_does_not_hold_up_the_event_loop(path: Path, mount: Mount) -> None:
    moment = [100.0]
    held = FlagEvaluator(FlagFile(path, poll_s=0.005, clock=lambda: moment[0]), deadline_s=30)
    try:
        mount.hang()
        moment[0] += 1.1
        waiting = asyncio.create_task(held.evaluate_async(CONTEXT))
        await asyncio.sleep(0)
        mount.answers.set()  # nobody could, if the loop stood still
        assert (await waiting).mode == "autonomous"
    finally:
        held.close()
