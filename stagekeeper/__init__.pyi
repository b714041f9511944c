# The public names, each once: `stagekeeper/__init__.py` loads them from where this says they are.

from producers.boundary.action import (
    Action as Action,
    ActionResult as ActionResult,
    CallContext as CallContext,
    Permit as Permit,
    acting as acting,
)
from producers.boundary.approvals import (
    AlteredReviewError as AlteredReviewError,
    ApprovalExpiredError as ApprovalExpiredError,
    ApprovalMismatchError as ApprovalMismatchError,
    ApprovalUsedError as ApprovalUsedError,
    Review as Review,
    ReviewError as ReviewError,
    ReviewPendingError as ReviewPendingError,
    ReviewRejectedError as ReviewRejectedError,
    SelfApprovalError as SelfApprovalError,
    UnauthenticatedReviewerError as UnauthenticatedReviewerError,
)
from producers.boundary.authorization import (
    Authorizer as Authorizer,
    FileAuthorizer as FileAuthorizer,
    SteadyAuthorizer as SteadyAuthorizer,
)
from producers.boundary.authzen import (
    AuthzenAuthorizer as AuthzenAuthorizer,
    PolicyPointError as PolicyPointError,
)
from producers.boundary.errors import (
    ActionConstrainedError as ActionConstrainedError,
    ActionDeniedError as ActionDeniedError,
    ActionFellBackError as ActionFellBackError,
    ActionObservedError as ActionObservedError,
    InvalidCallError as InvalidCallError,
    RefusedError as RefusedError,
    ReviewRequiredError as ReviewRequiredError,
)
from producers.boundary.flagd_file import (
    Ruleset as Ruleset,
)
from producers.boundary.flags import (
    FlagEvaluator as FlagEvaluator,
)
from producers.boundary.review_store import ReviewStore as ReviewStore
from producers.boundary.reviewers import Reviewer as Reviewer
from producers.boundary.router import (
    Router as Router,
)
from producers.delivery.kafka_emitter import (
    DeliveryStats as DeliveryStats,
    Emitter as Emitter,
    KafkaEmitter as KafkaEmitter,
)
from producers.delivery.memory_emitter import MemoryEmitter as MemoryEmitter
from producers.delivery.outbox import (
    Outbox as Outbox,
    OutboxError as OutboxError,
)
from producers.delivery.outbox_emitter import (
    OutboxOnlyEmitter as OutboxOnlyEmitter,
    OutboxEmitter as OutboxEmitter,
)
from producers.delivery.recorder import (
    Recorder as Recorder,
)
from producers.errors import (
    StagekeeperError as StagekeeperError,
    UsageError as UsageError,
)
from producers.wire.contract import (
    ActionContract as ActionContract,
    Actor as Actor,
    Evidence as Evidence,
    Fallback as Fallback,
    FallbackMode as FallbackMode,
    Reversibility as Reversibility,
    RiskClass as RiskClass,
    Scope as Scope,
    Target as Target,
)
from producers.wire.decision import (
    Allow as Allow,
    Authorization as Authorization,
    Constrain as Constrain,
    Decision as Decision,
    Deny as Deny,
    FallBack as FallBack,
    FlagEvaluation as FlagEvaluation,
    FlagReason as FlagReason,
    Provenance as Provenance,
    QueueForReview as QueueForReview,
)
from producers.wire.events import (
    ActionDecided as ActionDecided,
    ActionExecuted as ActionExecuted,
    ActionImpact as ActionImpact,
    ActionUndone as ActionUndone,
    ExecutionStatus as ExecutionStatus,
    Incident as Incident,
    PolicyChanged as PolicyChanged,
    PolicyChangedData as PolicyChangedData,
    Quality as Quality,
    Resolution as Resolution,
    ReviewResolved as ReviewResolved,
    RouterStatus as RouterStatus,
    RouterStatusData as RouterStatusData,
    StageRecommended as StageRecommended,
    Support as Support,
    UndoResult as UndoResult,
    VerdictName as VerdictName,
)
from producers.wire.receipt import (
    Cell as Cell,
    Receipt as Receipt,
    ReceiptError as ReceiptError,
)
from producers.wire.stage import (
    Mode as Mode,
    Stage as Stage,
)
from stagekeeper.factory import (
    open_router as open_router,
)
from stagekeeper.own_packages import ShadowedPackageError as ShadowedPackageError
