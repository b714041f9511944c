"""Arguments are written as RFC 8785 says, and values that differ are written differently."""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from producers.boundary.canonical_json import ArgumentDigester, ArgumentError, canonical, digest
from producers.wire.contract import ArgumentsDigest
from producers.wire.decision import FlagEvaluation, FlagReason
from producers.wire.receipt import ATTEMPT_KEY, epoch_of
from producers.wire.stage import Stage

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "canonical_json_vectors.json").read_text(encoding="utf-8"))
PLAIN = st.none() | st.booleans() | st.integers() | st.text() | st.text().map("integer:{}".format)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.recursive(
    PLAIN | FLOATS,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=8,
)


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_large_or_tagged(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_large_or_tagged, value.values()))
    if isinstance(value, list):
        return any(map(_has_large_or_tagged, value))
    return (isinstance(value, int) and abs(value) >= 2**53) or (isinstance(value, str) and value.startswith("integer:"))


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_the_published_vectors_hold(vector: dict[str, str]) -> None:
    value = json.loads(vector["json"])
    assert canonical(value).decode() == vector["canonical"]
    assert digest(value) == vector["sha256"]
    assert ArgumentDigester(None).digest(value, ()) == ArgumentsDigest(vector["sha256"])
    keyed = ArgumentDigester(VECTORS["hmac_key"].encode()).digest(value, ("redacted",))
    assert keyed == ArgumentsDigest(None, vector["hmac"], VECTORS["key_id"])


@pytest.mark.parametrize("vector", VECTORS["epochs"], ids=lambda vector: vector["name"])
def test_the_published_epochs_hold(vector: dict[str, Any]) -> None:
    stage, model, prompt_version, tool_version, variants, *attempt = json.loads(vector["json"])
    flags = [FlagEvaluation(key=key, value=value, reason=FlagReason.STATIC) for key, value in reversed(variants)]
    if attempt:
        value = f"{attempt[0]}.{vector['rung']}"
        flags.append(FlagEvaluation(key=ATTEMPT_KEY, value=value, reason=FlagReason.STATIC))
    made = epoch_of(Stage(stage), model=model, prompt_version=prompt_version, tool_version=tool_version, flags=flags)
    assert made == vector["epoch"]
    assert (
        rfc8785.dumps(json.loads(vector["json"])).decode()
        == vector["canonical"]
        == canonical(json.loads(vector["json"])).decode()
    )
    assert hashlib.sha256(vector["canonical"].encode()).hexdigest()[:12] == vector["epoch"].partition(".")[0]


@given(st.text(min_size=1, max_size=9).filter(_is_text), st.text(max_size=9).filter(_is_text))
def test_an_epoch_is_the_digest_of_its_canonical_form(model: str, value: str) -> None:
    flag = FlagEvaluation(key="a-flag", value=value, reason=FlagReason.STATIC)
    shape = ["draft_write", model, None, None, [["a-flag", value]]]
    expected = hashlib.sha256(rfc8785.dumps(shape)).hexdigest()[:12]
    assert epoch_of(Stage.DRAFT_WRITE, model=model, flags=[flag]) == expected


@pytest.mark.parametrize("refused", VECTORS["refused"], ids=lambda refused: refused["name"])
def test_what_the_published_vectors_refuse_is_refused(refused: dict[str, str]) -> None:
    with pytest.raises(ArgumentError):
        canonical(json.loads(refused["json"]))


@given(ANY | st.dictionaries(st.text(), ANY, max_size=5))
def test_what_rfc_8785_can_write_is_written_by_it(value: Any) -> None:
    if not _is_text(value):
        with pytest.raises(ArgumentError):
            canonical(value)
    elif not _has_large_or_tagged(value):
        assert canonical(value) == rfc8785.dumps(value)


@given(PLAIN.filter(_is_text), PLAIN.filter(_is_text))
@example(2**53, "integer:9007199254740992")
@example("integer:1", "integer:integer:1")
def test_values_that_differ_are_written_differently(one: Any, other: Any) -> None:
    equal = type(one) is type(other) and one == other
    assert (canonical({"a": one}) == canonical({"a": other})) is equal
    assert (canonical([one]) == canonical([other])) is equal


@pytest.mark.parametrize("arguments", [{1: "a"}, {"a": 1, 2: "b"}, {None: 1}, {True: 1}, [{"a": {1: 2}}]])
def test_names_that_are_not_text_are_refused(arguments: Any) -> None:
    with pytest.raises(ArgumentError, match="key of type"):
        canonical(arguments)


def test_what_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = [endless]
    with pytest.raises(ArgumentError, match="nested too deeply"):
        canonical(endless)


def test_subclasses_are_written_by_what_they_hold() -> None:
    class Shouting(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self.upper()

    class Level(IntEnum):
        HIGH = 3

    class Word(StrEnum):
        LOW = "low"

    assert canonical({"a": Shouting("x"), "b": Level.HIGH, "c": Word.LOW}) == b'{"a":"x","b":3,"c":"low"}'
