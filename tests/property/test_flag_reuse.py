"""What an evaluator reuses of a flag file's answers is what the file answers, whatever its rules look at."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import examples

from producers.boundary.flagd_file import TARGETING_KEY, FlagFile, attributes_read
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import FLAGS

NAMES = ["account", "region", "user"]
VARIABLES = st.one_of(
    st.sampled_from([*NAMES, TARGETING_KEY, "$flagd.flagKey", "account.0", ""]),
    st.sampled_from([["account", "a"], ["region"], ["user", {"var": "account"}], {"cat": ["acc", "ount"]}]),
).map(lambda name: {"var": name})
TERMS = VARIABLES | st.sampled_from(["a", "ab", "", None, True, 1])
CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["==", "!=", "in", "starts_with", "<"]), st.lists(TERMS, min_size=2, max_size=2)),
        st.tuples(st.sampled_from(["missing", "missing_some"]), st.just(["account", "user"])),
        st.tuples(
            st.sampled_from(["some", "all"]),
            st.tuples(st.just(["a", "b"]), st.just({"==": [{"var": ""}, "a"]})).map(list),
        ),
    ).map(lambda said: {said[0]: said[1]}),
    lambda parts: st.tuples(st.sampled_from(["and", "or", "!"]), st.lists(parts, min_size=1, max_size=2)).map(
        lambda said: {said[0]: said[1]}
    ),
    max_leaves=4,
)
SPLITS = st.one_of(
    st.just({"fractional": [["set", 50], ["other", 50]]}),
    VARIABLES.map(lambda by: {"fractional": [{"cat": [by, "salt"]}, ["set", 50], ["other", 50]]}),
)
TARGETING = st.one_of(
    st.none(),
    st.tuples(CONDITIONS, SPLITS | st.sampled_from(["set", "other"]), st.sampled_from(["set", "other", None])).map(
        lambda parts: {"if": list(parts)}
    ),
    SPLITS,
)
VALUES = [(True, False), (False, True), ("autonomous", "off"), (True, False), (0.5, 0.9)]
CONTEXTS = st.tuples(
    st.sampled_from(["a", "b", "ab"]), st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["a", "b", "ab"]))
).map(lambda said: (said[0], tuple(sorted(said[1].items()))))


@pytest.mark.slow
@given(rules=st.lists(TARGETING, min_size=5, max_size=5), contexts=st.lists(CONTEXTS, min_size=2, max_size=8))
@settings(max_examples=examples(100), deadline=None)
def test_a_reused_answer_is_the_one_that_the_file_gives(rules: list[Any], contexts: list[Any]) -> None:
    flags = {
        flag.key: {
            "state": "ENABLED",
            "variants": dict(zip(("set", "other"), values, strict=True)),
            "defaultVariant": "set",
            **({} if targeting is None else {"targeting": targeting}),
        }
        for flag, values, targeting in zip(FLAGS, VALUES, rules, strict=True)
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flags.json"
        path.write_text(json.dumps({"flags": flags}))
        reusing = FlagEvaluator(FlagFile(path))
        try:
            for context in contexts:
                forgetful = FlagEvaluator(FlagFile(path))
                reused, fresh = reusing.evaluate(context), forgetful.evaluate(context)
                forgetful.close()
                assert asdict(replace(reused, rules=None)) == asdict(replace(fresh, rules=None))
        finally:
            reusing.close()


@pytest.mark.parametrize(
    ("targeting", "names"),
    [
        (None, set()),
        ({}, set()),
        ({"==": [{"var": "account"}, "a"]}, {"account"}),
        ({"var": ["account", {"var": "user"}]}, {"account", "user"}),
        ({"var": "account.0"}, {"account", "account.0"}),
        ({"fractional": [["on", 50], ["off", 50]]}, {TARGETING_KEY}),
        ({"fractional": [{"var": "account"}, ["on", 50]]}, {TARGETING_KEY, "account"}),
        ({"==": [{"var": "$flagd.flagKey"}, "a"]}, {"$flagd", "$flagd.flagKey"}),
        ({"var": ""}, None),
        ({"var": []}, None),
        ({"var": {"cat": ["acc", "ount"]}}, None),
        ({"missing": ["account"]}, None),
        ({"some": [["a"], {"==": [{"var": ""}, "a"]}]}, None),
        ({"$ref": "shared"}, None),
        ({"an operator of tomorrow": ["account"]}, None),
    ],
)
def test_what_a_rule_looks_at_is_read_off_it(targeting: object, names: set[str] | None) -> None:
    assert attributes_read(targeting) == names
