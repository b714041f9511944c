"""Stagekeeper: audit and gate the authority of AI agents, from decisions to evidence to the next stage.

A tool router imports everything it needs from here. Names load when they are first used, so that importing the
package costs a router nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producers.boundary.action import Action as Action
    from producers.boundary.action import Circumstances as Circumstances
    from producers.boundary.action import Permit as Permit
    from producers.boundary.action import acting as acting
    from producers.boundary.approvals import ApprovalExpiredError as ApprovalExpiredError
    from producers.boundary.approvals import ApprovalMismatchError as ApprovalMismatchError
    from producers.boundary.approvals import ApprovalUsedError as ApprovalUsedError
    from producers.boundary.approvals import Review as Review
    from producers.boundary.approvals import ReviewError as ReviewError
    from producers.boundary.approvals import ReviewPendingError as ReviewPendingError
    from producers.boundary.approvals import ReviewRejectedError as ReviewRejectedError
    from producers.boundary.authorization import Authorizer as Authorizer
    from producers.boundary.authorization import FileAuthorizer as FileAuthorizer
    from producers.boundary.authorization import SteadyAuthorizer as SteadyAuthorizer
    from producers.boundary.errors import ActionConstrainedError as ActionConstrainedError
    from producers.boundary.errors import ActionDeniedError as ActionDeniedError
    from producers.boundary.errors import ActionFellBackError as ActionFellBackError
    from producers.boundary.errors import ActionObservedError as ActionObservedError
    from producers.boundary.errors import RefusedError as RefusedError
    from producers.boundary.errors import ReviewRequiredError as ReviewRequiredError
    from producers.boundary.flagd_file import Ruleset as Ruleset
    from producers.boundary.flags import FlagEvaluator as FlagEvaluator
    from producers.boundary.review_store import ReviewStore as ReviewStore
    from producers.boundary.router import Router as Router
    from producers.delivery.kafka_emitter import DeliveryStats as DeliveryStats
    from producers.delivery.kafka_emitter import Emitter as Emitter
    from producers.delivery.kafka_emitter import KafkaEmitter as KafkaEmitter
    from producers.delivery.outbox import Outbox as Outbox
    from producers.delivery.outbox import OutboxError as OutboxError
    from producers.delivery.outbox_emitter import OnDisk as OnDisk
    from producers.delivery.outbox_emitter import OutboxEmitter as OutboxEmitter
    from producers.delivery.recorder import Recorder as Recorder
    from producers.errors import StagekeeperError as StagekeeperError
    from producers.errors import UsageError as UsageError
    from producers.wire.contract import ActionContract as ActionContract
    from producers.wire.contract import Actor as Actor
    from producers.wire.contract import Evidence as Evidence
    from producers.wire.contract import Fallback as Fallback
    from producers.wire.contract import FallbackMode as FallbackMode
    from producers.wire.contract import Reversibility as Reversibility
    from producers.wire.contract import RiskClass as RiskClass
    from producers.wire.contract import Scope as Scope
    from producers.wire.contract import Target as Target
    from producers.wire.decision import Allow as Allow
    from producers.wire.decision import Authorization as Authorization
    from producers.wire.decision import Constrain as Constrain
    from producers.wire.decision import Decision as Decision
    from producers.wire.decision import Deny as Deny
    from producers.wire.decision import FallBack as FallBack
    from producers.wire.decision import FlagEvaluation as FlagEvaluation
    from producers.wire.decision import FlagReason as FlagReason
    from producers.wire.decision import Provenance as Provenance
    from producers.wire.decision import QueueForReview as QueueForReview
    from producers.wire.events import ActionDecided as ActionDecided
    from producers.wire.events import ActionExecuted as ActionExecuted
    from producers.wire.events import ActionImpact as ActionImpact
    from producers.wire.events import ActionUndone as ActionUndone
    from producers.wire.events import ExecutionStatus as ExecutionStatus
    from producers.wire.events import Incident as Incident
    from producers.wire.events import PolicyChanged as PolicyChanged
    from producers.wire.events import PolicyChangedData as PolicyChangedData
    from producers.wire.events import Quality as Quality
    from producers.wire.events import Resolution as Resolution
    from producers.wire.events import ReviewResolved as ReviewResolved
    from producers.wire.events import StageRecommended as StageRecommended
    from producers.wire.events import Support as Support
    from producers.wire.events import UndoResult as UndoResult
    from producers.wire.events import VerdictName as VerdictName
    from producers.wire.receipt import Cell as Cell
    from producers.wire.receipt import Receipt as Receipt
    from producers.wire.receipt import ReceiptError as ReceiptError
    from producers.wire.stage import Mode as Mode
    from producers.wire.stage import Stage as Stage
    from stagekeeper.factory import open_router as open_router

_HOMES: dict[str, tuple[str, ...]] = {
    "producers.boundary.action": ("Action", "Circumstances", "Permit", "acting"),
    "producers.boundary.approvals": (
        "ApprovalExpiredError",
        "ApprovalMismatchError",
        "ApprovalUsedError",
        "Review",
        "ReviewError",
        "ReviewPendingError",
        "ReviewRejectedError",
    ),
    "producers.boundary.authorization": ("Authorizer", "FileAuthorizer", "SteadyAuthorizer"),
    "producers.boundary.flagd_file": ("Ruleset",),
    "producers.boundary.flags": ("FlagEvaluator",),
    "producers.boundary.review_store": ("ReviewStore",),
    "producers.boundary.errors": (
        "ActionConstrainedError",
        "ActionDeniedError",
        "ActionFellBackError",
        "ActionObservedError",
        "RefusedError",
        "ReviewRequiredError",
    ),
    "producers.boundary.router": ("Router",),
    "producers.delivery.outbox_emitter": ("OnDisk", "OutboxEmitter"),
    "producers.delivery.kafka_emitter": ("DeliveryStats", "Emitter", "KafkaEmitter"),
    "producers.delivery.outbox": ("Outbox", "OutboxError"),
    "producers.delivery.recorder": ("Recorder",),
    "producers.errors": ("StagekeeperError", "UsageError"),
    "producers.wire.contract": (
        "ActionContract",
        "Actor",
        "Evidence",
        "Fallback",
        "FallbackMode",
        "Reversibility",
        "RiskClass",
        "Scope",
        "Target",
    ),
    "producers.wire.decision": (
        "Allow",
        "Authorization",
        "Constrain",
        "Decision",
        "Deny",
        "FallBack",
        "FlagEvaluation",
        "FlagReason",
        "Provenance",
        "QueueForReview",
    ),
    "producers.wire.events": (
        "ActionDecided",
        "ActionExecuted",
        "ActionImpact",
        "ActionUndone",
        "ExecutionStatus",
        "Incident",
        "PolicyChanged",
        "PolicyChangedData",
        "Quality",
        "Resolution",
        "ReviewResolved",
        "StageRecommended",
        "Support",
        "UndoResult",
        "VerdictName",
    ),
    "producers.wire.receipt": ("Cell", "Receipt", "ReceiptError"),
    "producers.wire.stage": ("Mode", "Stage"),
    "stagekeeper.factory": ("open_router",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - one list of names is enough; a test holds it equal to the imports above


def __getattr__(name: str) -> object:
    """Load a public name from the module where it lives."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stagekeeper' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
