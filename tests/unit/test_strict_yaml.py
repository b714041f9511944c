from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from producers.strict_yaml import ConfigurationFileError, parse_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    alpha: float = 0.05


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    parts: list[Inner] = []


def _parse(text: str) -> Outer:
    return parse_yaml(text.encode(), Outer, origin="here.yaml")


def test_what_fits_is_read() -> None:
    assert _parse("name: a\nparts: [{alpha: 0.1}]").parts[0].alpha == 0.1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nparts: [{alfa: 0.1}]", r"here\.yaml: unknown key `alfa` at parts\[0\]: did you mean `alpha`\?"),
        ("name: a\nquite_other: 1", "known here: name, parts"),
        ("parts: []", "`name` is missing at the top"),
        ("name: a\nparts: [{alpha: high}]", r"parts\[0\]\.alpha"),
        ("name: a\nname: b", "the key `name` is there twice"),
        ("name: a\nparts: [{alpha: 0.1, alpha: 0.2}]", "the key `alpha` is there twice"),
        ("[", "not YAML"),
        ("7", "mapping at its top, not int"),
        ("", "mapping at its top, not NoneType"),
        ("name: !!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigurationFileError, match=said):
        _parse(text)
