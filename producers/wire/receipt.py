"""Receipts: signed references to a decision, carried by every later event about the same action.

Because every event names its own cell and its own minute, no stream has to be joined with another. The token is
`sk1.<payload>` or, with a key, `sk1.<payload>.<signature>`: the payload is the base64url (no padding) of a JSON array
in the order of the fields of `Receipt`, the signature the base64url of HMAC-SHA256 over everything before its dot.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError
from pydantic_core import to_json

from producers.errors import StagekeeperError
from producers.wire.model import Moment, Name, WireModel
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision, FlagEvaluation

VERSION = "sk1"
ATTEMPT_KEY = "agent-action-attempt"
"""The flag whose value names the attempt, such as `2`, and the rung within it, such as `2.3`."""

ReceiptFault = Literal["malformed_receipt", "unsigned_receipt", "forged_receipt"]


class ReceiptError(StagekeeperError):
    """A receipt token cannot be used."""

    exit_code = 2

    def __init__(self, fault: ReceiptFault, message: str) -> None:
        super().__init__(message)
        self.fault: ReceiptFault = fault  # why an event with this token is rejected


_PREFIX = f"{VERSION}.".encode()
_FEWEST = 8  # members of a token's array
_ATTEMPT_AND_RUNG = re.compile(r"([1-9][0-9]{0,3})(?:\.([1-9]|10))?", re.ASCII)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")  # what base64url does not have becomes what base64 does not have


class Cell(NamedTuple):
    """The unit that is judged: one action of one workflow in one environment, at one stage, for one cohort."""

    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str

    @property
    def key(self) -> str:
        """The cell as one string, for record keys and links."""
        return to_json(self).decode()


class Receipt(WireModel):
    """What later events need to know about a decision."""

    decision_id: Name
    """Unique for each decision; the `subject` of every event about it."""
    decided_at: Moment
    """When the decision was made: everything about it is counted in this minute."""
    environment: Name
    """The contract's `target.environment`."""
    workflow: Name
    tool: Name
    stage: Stage
    """The stage at which the action stood when it was decided."""
    cohort: Name = "all"
    """Segment of the roll-out; `all` where there are none."""
    epoch: Name
    """Names the stretch in which nothing that shapes the action's behaviour changes; see `epoch_of`."""
    attempt: Annotated[int, Field(strict=True, ge=1, le=9_999)] = 1
    """Which attempt of the action it is; in a token only where it is not the first, or there is a rung."""
    rung: Annotated[int, Field(strict=True, ge=1, le=10)] | None = None
    """The rung of a roll-out that grows step by step; in a token only where there is one."""

    @property
    def cell(self) -> Cell:
        """The cell that everything about this decision is counted in."""
        return Cell(self.environment, self.workflow, self.tool, self.stage.value, self.cohort)

    def token(self, key: bytes | None = None) -> str:
        """Write the receipt as an opaque token, signed when a key is given."""
        return write_token(to_json(self.members), key)

    @property
    def members(self) -> list[object]:
        """The members of the array in a token; those at the end that say nothing new are left out."""
        members = list(self.__dict__.values())
        return members if self.rung is not None else members[: -1 if self.attempt > 1 else -2]

    @classmethod
    def from_token(cls, token: str, key: bytes | None = None) -> Receipt:
        """Read a token back; `ReceiptError` where it is malformed, or forged, or unsigned although there is a key."""
        payload = open_token(token, key)
        try:
            members = json.loads(payload)
            if not _FEWEST <= len(members) <= len(cls.model_fields):
                raise ValueError(f"it has {len(members)} members")  # noqa: TRY301 - as the others that follow
            return cls.model_validate(dict(zip(cls.model_fields, members, strict=False)))
        except (ValueError, TypeError, ValidationError) as error:
            raise ReceiptError("malformed_receipt", f"the receipt's fields are unusable: {error}") from error

    @classmethod
    def from_decision(
        cls,
        contract: ActionContract,
        decision: Decision,
        *,
        stage: Stage,
        cohort: str,
        decision_id: str,
        decided_at: datetime,
    ) -> Receipt:
        """The receipt of one decision about one contract."""
        attempt, rung = attempt_of(decision.flags)
        return cls(
            decision_id=decision_id,
            decided_at=decided_at,
            environment=contract.target.environment,
            workflow=contract.workflow,
            tool=contract.tool,
            stage=stage,
            cohort=cohort,
            epoch=epoch_of(
                stage,
                model=contract.actor.model,
                prompt_version=contract.actor.prompt_version,
                tool_version=contract.tool_version,
                flags=decision.flags,
            ),
            attempt=attempt,
            rung=rung,
        )


class IssuedReceipt(NamedTuple):
    """A receipt as its recorder gave it out."""

    decision_id: str
    token: str

    @property
    def receipt(self) -> Receipt:
        """The receipt that the token holds."""
        return Receipt.from_token(self.token)


def write_token(payload: bytes, key: bytes | None) -> str:
    """Write the JSON array of a receipt's fields as a token, signed when a key is given."""
    unsigned = f"{VERSION}.{_to_base64(payload)}"
    return unsigned if key is None else f"{unsigned}.{_to_base64(_signature(unsigned, key))}"


def open_token(token: str, key: bytes | None) -> bytes:
    """Check a token's form and signature, as in `Receipt.from_token`, and return the JSON array inside it."""
    raw = token.encode("ascii", "replace")
    letters, dot, signature = raw[len(_PREFIX) :].partition(b".")
    if not raw.startswith(_PREFIX) or not letters or (dot and not signature):
        raise ReceiptError(
            "malformed_receipt", f"a receipt reads {VERSION}.<payload> or {VERSION}.<payload>.<signature>"
        )
    try:
        payload, digest = _from_base64(letters), _from_base64(signature) if signature else b""
    except binascii.Error as error:
        raise ReceiptError("malformed_receipt", f"the receipt is not base64url: {error}") from error
    if key is not None:
        if not signature:
            raise ReceiptError("unsigned_receipt", "a signing key is configured, and the receipt is not signed")
        if not hmac.compare_digest(digest, hmac.digest(key, raw[: -len(signature) - 1], "sha256")):
            raise ReceiptError("forged_receipt", "the receipt's signature does not match the configured key")
    return payload


SWITCHES = frozenset({"agent-action-governance-enabled", "agent-action-denylist"})
"""Flags that only refuse. They do not shape what runs, so turning one for an account starts no new epoch for others."""


def epoch_of(
    stage: Stage,
    *,
    model: str | None = None,
    prompt_version: str | None = None,
    tool_version: str | None = None,
    flags: Iterable[FlagEvaluation] = (),
) -> str:
    """Name the stretch in which nothing that shapes the action's behaviour changes.

    It is twelve hexadecimal digits of the SHA-256 of the compact JSON array `[stage, model, prompt_version,
    tool_version, variants]`, where `variants` are `[key, variant or value]` of the evaluated flags, sorted, without
    `SWITCHES` and `ATTEMPT_KEY`; from the second attempt on the attempt's number is the array's last member. At a rung
    a `.` and its number follow, so that the rungs of one roll-out can be told.
    """
    evaluated = list(flags)
    attempt, rung = attempt_of(evaluated)
    shaping = [flag for flag in evaluated if flag.key not in SWITCHES and not _tells_attempt(flag)]
    variants = sorted([flag.key, flag.variant or flag.value or ""] for flag in shaping)
    members = [stage, model, prompt_version, tool_version, variants, *([attempt] if attempt > 1 else [])]
    name = hashlib.sha256(to_json(members)).hexdigest()[:12]
    return name if rung is None else f"{name}.{rung}"


def attempt_of(flags: Iterable[FlagEvaluation]) -> tuple[int, int | None]:
    """The attempt and the rung that the evaluated flags name; the first and none where they name none.

    A value that could not be used names none either; it stays among the variants that make an epoch, so that it leads
    back to no epoch that there was.
    """
    for flag in flags:
        if _tells_attempt(flag):
            return rung_of(flag.value or "") or (1, None)
    return 1, None


def rung_of(value: str) -> tuple[int, int | None] | None:
    """The attempt and the rung that a value of `ATTEMPT_KEY` names; None where it is none."""
    match = _ATTEMPT_AND_RUNG.fullmatch(value)
    return None if match is None else (int(match[1]), None if match[2] is None else int(match[2]))


def _tells_attempt(flag: FlagEvaluation) -> bool:
    return flag.key == ATTEMPT_KEY and flag.error is None


def _signature(unsigned: str, key: bytes) -> bytes:
    # `hmac.digest` would hand the interpreter to another thread, in the middle of a decision.
    signing = _keyed(key).copy()
    signing.update(unsigned.encode())
    return signing.digest()


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def _to_base64(raw: bytes) -> str:
    """As `base64.urlsafe_b64encode` without its padding, in half the time."""
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode("ascii")


def _from_base64(letters: bytes) -> bytes:
    """The bytes behind letters of base64url without padding; any other letter is an error."""
    return binascii.a2b_base64(letters.translate(_STANDARD) + b"=" * (-len(letters) % 4), strict_mode=True)
