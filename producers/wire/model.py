"""The one base of everything that is said on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[^\x00-\x1f\x7f]+$"

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME_PATTERN)]  # a short identifier people may read
Text = Annotated[str, Field(max_length=4_000)]  # free text written by a person or an agent
Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]  # a share between 0 and 1, both included
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # a SHA-256 digest in lower-case hexadecimal


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]  # a moment with a time zone; written as RFC 3339 in UTC


class WireModel(BaseModel):
    """An immutable record. Writers may use only the fields that are published; readers ignore what they do not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="null", allow_inf_nan=False
    )
