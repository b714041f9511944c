"""Turn the contract of a request into the action and the context that the boundary decides about."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NoReturn

from producers.boundary.action import Action
from producers.wire.contract import ArgumentsDigest
from stagekeeper.api.problems import ProblemError

if TYPE_CHECKING:
    from stagekeeper.api.access_tokens import AccessToken
    from stagekeeper.api.api_models import DecisionRequest

_MOST_ACTIONS: Final = 5_000  # the oldest go first


def run_elsewhere(**_arguments: Any) -> NoReturn:  # noqa: ANN401 - whatever the action takes
    """Stand for an action that the caller performs; never called."""
    raise AssertionError("an action of another process was called here")


class ContractActions:
    """The actions that were asked for, one for each of which no decision tells them apart. For one thread."""

    def __init__(self) -> None:
        self._actions: OrderedDict[tuple[object, ...], Action] = OrderedDict()

    def get(self, asked: DecisionRequest) -> Action:
        """The action of a request; raises `UsageError` where there can be none."""
        contract = asked.contract
        key = (
            contract.tool,
            contract.workflow,
            contract.target.system,
            contract.target.environment,
            contract.risk_class,
            contract.reversibility,
            contract.tool_version,
            contract.fallback,
            asked.variants,
            asked.redact,
            asked.consequence,
        )
        action = self._actions.get(key)
        if action is None:
            action = self._actions[key] = Action(
                tool=contract.tool,
                workflow=contract.workflow,
                system=contract.target.system,
                environment=contract.target.environment,
                risk_class=contract.risk_class,
                reversibility=contract.reversibility,
                run=run_elsewhere,
                variants=dict.fromkeys(sorted(asked.variants), run_elsewhere),
                tool_version=contract.tool_version,
                redact=asked.redact,
                fallback=contract.fallback,
                consequence=asked.consequence,
            )
            if len(self._actions) > _MOST_ACTIONS:
                self._actions.popitem(last=False)
        return action


def asked_context(asked: DecisionRequest, token: AccessToken) -> dict[str, Any]:
    """What is known of a call, for `acting`: agent and service by the token, the rest as the caller asserts it.

    Raises `ProblemError` where the contract claims what is not its caller's to say.
    """
    contract, actor, scope, evidence = (
        asked.contract,
        asked.contract.actor,
        asked.contract.scope,
        asked.contract.evidence,
    )
    if actor.agent != token.agent:
        raise ProblemError(
            403, "another_agent", f"the token {token.id} is that of agent {token.agent}, and asks for {actor.agent}"
        )
    if actor.service_identity not in {None, token.service}:
        raise ProblemError(
            403, "another_service", f"the token {token.id} is that of service {token.service}, not of the one claimed"
        )
    if contract.arguments_digest != ArgumentsDigest():
        raise ProblemError(
            422, "digest_of_arguments", "contract: send `arguments` beside the contract, and no digest; it is made here"
        )
    for name, scoped, acted in (
        ("account", scope.account, actor.account),
        ("environment", scope.environment, contract.target.environment),
        ("workflow", scope.workflow, contract.workflow),
    ):
        if scoped not in {None, acted}:
            raise ProblemError(
                422, "scope_mismatch", f"contract.scope.{name} is {scoped}, and the action's own {name} is {acted}"
            )
    return {
        "agent": token.agent,
        "service_identity": token.service,
        "user": actor.user,
        "account": actor.account,
        "model": actor.model,
        "prompt_version": actor.prompt_version,
        "intent": contract.intent,
        "record": contract.target.record,
        "region": scope.region,
        "traffic_ratio": scope.traffic_ratio,
        "confidence": evidence.confidence,
        "source_coverage": evidence.source_coverage,
        "evaluator_result": evidence.evaluator_result,
        "prior_review": evidence.prior_review,
        "conversation": contract.conversation,
        "tool_call": contract.tool_call,
        "requested_tool": contract.requested_tool,
        "cohort": asked.cohort,
    }
