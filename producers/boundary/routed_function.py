"""Functions that go through a router, and look to frameworks like those that they stand for."""

from __future__ import annotations

import functools
import inspect
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from producers.boundary.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from producers.boundary.action import Action, ActionResult


def routed_function(
    action: Action,
    perform: Callable[..., ActionResult],
    perform_async: Callable[..., Coroutine[Any, Any, ActionResult]],
    on_refusal: Callable[[RefusedError], Any] | None = None,
) -> Callable[..., Any]:
    """A function with the action's signature, annotations and kind that calls the action by a router's methods.

    What frameworks take apart (`inspect.signature`, `typing.get_type_hints`, `__wrapped__`) leads to it or to a twin of
    it, and never around the router. `perform`, an attribute, gives the result with the permit it ran under.
    """
    refused = RefusedError  # enclosed: see `_like`

    def routed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return perform(action, *args, **kwargs).value
        except refused as refusal:
            if on_refusal is None:
                raise
            return on_refusal(refusal)

    async def routed_async(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return (await perform_async(action, *args, **kwargs)).value
        except refused as refusal:
            if on_refusal is None:
                raise
            return on_refusal(refusal)

    model = cast("FunctionType", routed_async if action.is_async else routed)
    shown, twin = _like(model, action.run), _like(model, action.run)
    shown.__wrapped__ = twin  # type: ignore[attr-defined]
    shown.perform = partial(perform_async if action.is_async else perform, action)  # type: ignore[attr-defined]
    return shown


def is_method(function: Callable[..., Any]) -> bool:
    """Whether a function was written in the body of a class, and takes the instance first."""
    parents = getattr(function, "__qualname__", "").split(".")[:-1]
    if not parents or parents[-1] == "<locals>":
        return False
    return next(iter(inspect.signature(function).parameters), "") in {"self", "cls"}


def _like(model: FunctionType, run: Callable[..., Any]) -> FunctionType:
    """A copy of a function that says of itself what another one does, and finds names of types where that one does."""
    # The code names nothing but what it encloses, so that it may have the other function's globals as they are.
    names = getattr(inspect.unwrap(run), "__globals__", model.__globals__)
    copy = FunctionType(model.__code__, names, model.__name__, None, model.__closure__)
    functools.update_wrapper(copy, run)
    del copy.__wrapped__  # type: ignore[attr-defined]
    copy.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    return copy
