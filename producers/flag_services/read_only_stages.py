"""Stages in any other OpenFeature provider: OpenFeature reads flags and cannot change them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from producers.boundary.canonical_json import digest
from producers.boundary.flags import FlagEvaluator
from producers.boundary.policy_flags import ATTEMPT
from producers.boundary.stage_store import StageSetting, StageStoreError
from producers.flag_services.served_flags import highest_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from openfeature.provider import FeatureProvider

    from producers.boundary.flagd_overlays import Overlay, OverlayScope
    from producers.boundary.flags import FlagValues
    from producers.boundary.stage_store import ActionName, StageChange
    from producers.boundary.stage_writer import OverlayEdit, StageStep

_DEADLINE_S: Final = 5.0  # a person waits, and no decision
_WHOSE: Final = "stagekeeper-stage-show"  # the targeting key: what an action has that names no account


class ReadOnlyStageStoreError(StageStoreError):
    """The flags are in a provider that Stagekeeper cannot write to."""


class ReadOnlyStages:
    """What a provider answers for an action without an account; whoever changes something is told where."""

    def __init__(self, provider: FeatureProvider) -> None:
        self._name = f"OpenFeature provider {provider.get_metadata().name}"
        self._flags = FlagEvaluator(provider, deadline_s=_DEADLINE_S)

    @property
    def name(self) -> str:
        """The provider's own."""
        return self._name

    def read(self, action: ActionName) -> StageSetting:
        """What is in force for an action; what an account or a percentage would change does not show."""
        values = self._flags.evaluate((_WHOSE, tuple(sorted(action._asdict().items()))))
        failed = next((flag for flag in values.evaluations if flag.error and flag.provider), None)
        if failed is not None and not self._flags.ready:
            raise StageStoreError(f"{self.name} does not answer: {failed.error}")
        return StageSetting(
            action=action,
            mode=values.mode,
            attempt=_attempt(values),
            version=digest([self.name, [[flag.key, flag.variant or flag.value] for flag in values.evaluations]]),
            modes=(values.mode,),
            denied=values.denied or not values.enabled,
        )

    def settings(self, others: Iterable[ActionName] = ()) -> list[StageSetting]:
        """Only of the others: OpenFeature does not list what is targeted."""
        return [self.read(action) for action in sorted(set(others))]

    def steps(self) -> Iterator[StageStep]:
        """None: OpenFeature has no history."""
        return iter(())

    def newest_replaced(self) -> str:
        """Nothing: OpenFeature has no history."""
        return ""

    def had(self, version: str, *, after: str = "") -> bool:  # noqa: ARG002 - as every store has it
        """Never: OpenFeature has no history."""
        return False

    def preview(self, change: StageChange) -> str:
        """Raises `ReadOnlyStageStoreError`."""
        self._refuse(f"the mode of {change.action} to {change.to.value}")

    def change(self, change: StageChange, *, before_write: Callable[[str], None]) -> StageSetting:  # noqa: ARG002 - as above
        """Raises `ReadOnlyStageStoreError`."""
        self._refuse(f"the mode of {change.action} to {change.to.value}")

    def cover(self, overlay: Overlay, scope: OverlayScope) -> OverlayEdit:
        """Raises `ReadOnlyStageStoreError`."""
        self._refuse(f"{overlay.flag.key} for {scope}")

    def uncover(self, overlay: Overlay, scope: OverlayScope, *, before_write: Callable[[str], None]) -> OverlayEdit:  # noqa: ARG002 - as above
        """Raises `ReadOnlyStageStoreError`."""
        self._refuse(f"{overlay.flag.key} for {scope}")

    def start_attempt(
        self,
        action: ActionName,
        *,
        earlier: int,  # noqa: ARG002 - as above
        before_write: Callable[[int, int, str], None],  # noqa: ARG002 - as above
    ) -> int:
        """Raises `ReadOnlyStageStoreError`."""
        self._refuse(f"the attempt of {action}")

    def close(self) -> None:
        """Stop the provider."""
        self._flags.close()

    def _refuse(self, what: str) -> NoReturn:
        raise ReadOnlyStageStoreError(
            f"{self.name} is read-only: OpenFeature cannot change flags. Change {what} in the provider's own pages, or "
            "keep the flags in a flagd file, Unleash or FeatBit (STAGEKEEPER_STAGE_STORE)."
        )


def _attempt(values: FlagValues) -> int:
    return highest_attempt(flag.value for flag in values.evaluations if flag.key == ATTEMPT.key)
