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
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json

from producers.errors import StagekeeperError
from producers.wire.model import Moment, Name, WireModel
from producers.wire.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from producers.wire.contract import ActionContract
    from producers.wire.decision import Decision, FlagEvaluation

VERSION = "sk1"

ReceiptFault = Literal["malformed_receipt", "unsigned_receipt", "forged_receipt"]


class ReceiptError(StagekeeperError):
    """A receipt token cannot be used."""

    exit_code = 2

    def __init__(self, fault: ReceiptFault, message: str) -> None:
        super().__init__(message)
        self.fault: ReceiptFault = fault  # why an event with this token is rejected


_PREFIX = f"{VERSION}.".encode()
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

    @property
    def cell(self) -> Cell:
        """The cell that everything about this decision is counted in."""
        return Cell(self.environment, self.workflow, self.tool, self.stage.value, self.cohort)

    def token(self, key: bytes | None = None) -> str:
        """Write the receipt as an opaque token, signed when a key is given."""
        return write_token(to_json(list(self.__dict__.values())), key)

    @classmethod
    def from_token(cls, token: str, key: bytes | None = None) -> Receipt:
        """Read a token back; `ReceiptError` where it is malformed, or forged, or unsigned although there is a key."""
        payload = open_token(token, key)
        try:
            return cls.model_validate(dict(zip(cls.model_fields, json.loads(payload), strict=True)))
        except (ValueError, ValidationError) as error:
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
    `SWITCHES`.
    """
    variants = sorted([flag.key, flag.variant or flag.value or ""] for flag in flags if flag.key not in SWITCHES)
    return hashlib.sha256(to_json([stage, model, prompt_version, tool_version, variants])).hexdigest()[:12]


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
