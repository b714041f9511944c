"""The flag that names an attempt: in the receipt, in the epoch, and nowhere for whoever never tried anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from boundary_cases import Permit, contract, flagd_file

from analytics.signals.event_structs import ReceiptRow
from producers.boundary.decision_rules import decide
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import FLAGS
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.event_writer import SharedDecision
from producers.wire.receipt import ATTEMPT_KEY, Receipt, ReceiptError, epoch_of, open_token, write_token
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path


def receipt_under(path: Path, attempt: object = None, **flag: Any) -> tuple[Receipt, list[str]]:
    """The receipt under a flag file that says which attempt it is (None does not), and the flags recorded."""
    stated = json.loads(flagd_file(path).read_text())
    if attempt is not None:
        variants = {"this": attempt, "other": "7" if isinstance(attempt, str) else 7}
        stated["flags"][ATTEMPT_KEY] = {"state": "ENABLED", "variants": variants, "defaultVariant": "this", **flag}
        path.write_text(json.dumps(stated))
    held = FlagEvaluator.from_file(path)
    try:
        decided = decide(contract(), Permit(), held)
    finally:
        held.close()
    shared = SharedDecision(contract(), decided.decision, stage=decided.stage, cohort="all")
    token = shared.token(b'"d-1"', b'"2026-03-02T09:30:00Z"', None)
    return Receipt.from_token(token), [evaluation.key for evaluation in decided.decision.flags]


def test_whoever_never_tried_anew_has_no_such_flag_and_the_epoch_of_before(tmp_path: Path) -> None:
    receipt, keys = receipt_under(tmp_path / "flags.json")
    assert keys == [flag.key for flag in FLAGS]
    assert (receipt.attempt, receipt.rung) == (1, None)
    first, _ = receipt_under(tmp_path / "flags.json", "1")
    assert first == receipt
    assert len(json.loads(open_token(receipt.token(), None))) == 8


def test_a_new_attempt_is_a_new_epoch_and_stands_in_the_receipt(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    seen = {}
    for value in ("1", "2", "3", "2.1", "2.2", "3.1"):
        receipt, _ = receipt_under(path, value)
        seen[value] = receipt
        number, _, rung = value.partition(".")
        assert (receipt.attempt, receipt.rung) == (int(number), int(rung) if rung else None)
        assert Receipt.from_token(receipt.token(b"key"), b"key") == receipt
    assert len({receipt.epoch for receipt in seen.values()}) == len(seen)
    base = seen["2"].epoch
    assert (seen["2.1"].epoch, seen["2.2"].epoch) == (f"{base}.1", f"{base}.2")
    again, _ = receipt_under(path, "2")
    assert again == seen["2"]


def test_a_variant_s_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    named, _ = receipt_under(path, "7")
    other, _ = receipt_under(path, "2", defaultVariant="other")
    assert named == other


@pytest.mark.parametrize("value", ["0", "two", "2.0", "2.11", "02", "99999", "", "1.", "²", 2])
def test_a_value_that_names_no_attempt_leads_back_to_no_epoch(tmp_path: Path, value: object) -> None:
    before, _ = receipt_under(tmp_path / "flags.json")
    broken, keys = receipt_under(tmp_path / "flags.json", value)
    assert keys[-1] == ATTEMPT_KEY
    assert (broken.attempt, broken.rung) == (1, None)
    assert broken.epoch != before.epoch


def test_a_flag_that_is_switched_off_leads_back_to_no_epoch(tmp_path: Path) -> None:
    before, _ = receipt_under(tmp_path / "flags.json")
    off, _ = receipt_under(tmp_path / "flags.json", "2", state="DISABLED")
    assert off.epoch != before.epoch


def test_the_epoch_s_recipe() -> None:
    def at(value: str) -> str:
        flag = FlagEvaluation(key=ATTEMPT_KEY, value=value, reason=FlagReason.STATIC)
        return epoch_of(Stage.DRAFT_WRITE, model="m-1", flags=[flag])

    # sha256 of ["draft_write","m-1",null,null,[]], and of ["draft_write","m-1",null,null,[],2]
    assert (at("1"), at("2"), at("2.3")) == ("fc59eaf94b83", "0487653be84d", "0487653be84d.3")


@pytest.mark.parametrize(
    ("more", "attempt", "rung"), [([], 1, None), ([2], 2, None), ([1, 3], 1, 3), ([9999, 10], 9999, 10)]
)
def test_a_receipt_with_and_without_an_attempt_is_read_alike_by_router_and_worker(
    more: list[object], attempt: int, rung: int | None
) -> None:
    members = ["d-1", "2026-03-02T09:30:00Z", "prod", "w", "t", "draft_write", "all", "e-1", *more]
    token = write_token(json.dumps(members).encode(), None)
    receipt = Receipt.from_token(token)
    assert (receipt.attempt, receipt.rung) == (attempt, rung)
    row = msgspec.json.decode(open_token(token, None), type=ReceiptRow)
    assert (row.attempt, row.rung, row.epoch) == (attempt, rung, receipt.epoch)


@pytest.mark.parametrize("more", [[0], [-1], ["2"], [2.5], [10_000], [1, 0], [1, 11], [1, "a"], [1, 2, 3]])
def test_a_receipt_with_an_impossible_attempt_is_malformed_for_both(more: list[object]) -> None:
    members = ["d-1", "2026-03-02T09:30:00Z", "prod", "w", "t", "draft_write", "all", "e-1", *more]
    token = write_token(json.dumps(members).encode(), None)
    with pytest.raises(ReceiptError):
        Receipt.from_token(token)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(open_token(token, None), type=ReceiptRow)
