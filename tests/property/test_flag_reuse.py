"""What a policy reuses of a flag file's answers is what the file answers, whatever its rules look at."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.boundary.flagd_file import FlagFile, Ruleset
from producers.boundary.flags import FLAGS
from producers.boundary.policy import Policy
from producers.boundary.targeting import TARGETING_KEY, looked_at

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
@settings(max_examples=200, deadline=None)
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
        provider = FlagFile(path, poll_s=60.0)
        reusing = Policy(provider, ruleset=lambda: provider.rules)
        asked = Ruleset("anew")
        forgetful = Policy(provider, ruleset=lambda: asked)
        try:
            for context in contexts:
                asked = Ruleset("anew")  # what was answered before is good for another ruleset
                reused, fresh = reusing.answers(context), forgetful.answers(context)
                assert reused.records == fresh.records
                assert [reused.value_of(flag) for flag in FLAGS] == [fresh.value_of(flag) for flag in FLAGS]
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
        ({"==": [{"var": "$flagd.flagKey"}, "a"]}, set()),
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
    assert looked_at(targeting) == names
