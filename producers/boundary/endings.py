"""How an execution ended: by what it returned, which may not have run yet, or by what it raised."""

from __future__ import annotations

import asyncio
import gc
import inspect
from asyncio.timeouts import Timeout
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from functools import partial
from io import IOBase
from itertools import islice
from pathlib import PurePath
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, Final

import pydantic

from producers.errors import UsageError
from producers.wire.events import ExecutionStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

# Nothing ran, or not to its end: no execution, neither good nor bad
NOT_RUN: Final = frozenset({ExecutionStatus.CANCELLED, ExecutionStatus.REFUSED})
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})
_LOOKED_AT: Final = 100  # members of a result that are looked at; a list of coroutines begins with one
_OURS: Final = str(PurePath(__file__).parent)
_PYDANTIC: Final = str(PurePath(pydantic.__file__).parent)


class ArgumentsRefusedError(UsageError):
    """The tool did not take its arguments, and nothing of it ran."""


class InputRequiredError(UsageError):
    """The tool asked for more input in place of running to its end."""


async def await_finished(tool: str, result: Any) -> Any:  # noqa: ANN401 - as below
    """As `require_finished`, once what can be awaited was."""
    return require_finished(tool, await result if inspect.isawaitable(result) else result)


def require_finished(tool: str, result: Any) -> Any:  # noqa: ANN401 - whatever the action returns
    """What a function returned, if it has run; `UsageError` names what would run later, off the record."""
    if type(result) in _PLAIN:
        return result
    members: Iterable[object] = ()
    if isinstance(result, list | tuple | set | frozenset):
        members = result
    elif isinstance(result, dict):
        members = result.values()
    for value in (result, *islice(members, _LOOKED_AT)):
        if type(value) not in _PLAIN and _runs_later(value):
            for unstarted in (result, *members):
                if inspect.iscoroutine(unstarted):
                    unstarted.close()
            raise UsageError(
                f"{tool} returned a {type(value).__name__}, which did not run within it; return what came of it: "
                "await it in an async function, or make a list of it"
            )
    return result


def _runs_later(value: object) -> bool:
    if isinstance(value, Future | asyncio.Future):
        return True
    return inspect.isawaitable(value) or (
        isinstance(value, Iterator | AsyncIterator) and not isinstance(value, IOBase)  # an open file is a result
    )


def status_of(error: BaseException, arguments: Mapping[str, Any]) -> ExecutionStatus:
    """How an execution ended that raised an error."""
    if isinstance(error, TimeoutError):
        return ExecutionStatus.TIMED_OUT
    if isinstance(error, asyncio.CancelledError):
        return _why_cancelled()
    if isinstance(error, KeyboardInterrupt | GeneratorExit | InputRequiredError):
        return ExecutionStatus.CANCELLED
    if isinstance(error, ArgumentsRefusedError) or (
        isinstance(error, pydantic.ValidationError) and _is_about(error, arguments)
    ):
        return ExecutionStatus.REFUSED
    return ExecutionStatus.FAILED


def _is_about(error: pydantic.ValidationError, arguments: Mapping[str, Any]) -> bool:
    """Whether what pydantic does not take are the call's own arguments, and not what some service answered."""
    if _raised_by_pydantic(error.__traceback__):
        return True
    given = list(_values(arguments))
    return all(
        any(fault["input"] is value or (isinstance(value, str) and fault["input"] == value) for value in given)
        for fault in error.errors(include_url=False, include_context=False)
    )


def _raised_by_pydantic(trace: TracebackType | None) -> bool:
    """Whether no code but the router's and pydantic's ran, as in a function behind `pydantic.validate_call`."""
    files = []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    inside = [file for file in files if not file.startswith(_OURS)]
    return bool(inside) and all(file.startswith(_PYDANTIC) for file in inside)


def _values(value: object) -> Iterator[object]:
    """Values of arguments, at any depth, that tell where they come from; None and numbers are everywhere."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item)
    if value and not isinstance(value, bool | int | float):
        yield value


def _why_cancelled() -> ExecutionStatus:
    """Tell a deadline (`asyncio.timeout`, `asyncio.wait_for`) from somebody who called the work off.

    To the coroutine inside both are a `CancelledError`; the deadline that ran out is found around it, in its own task
    or in one that waits for it. Where nobody cancelled this task, the error is that of other work, and a failure.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        return ExecutionStatus.FAILED
    if task is None or not task.cancelling():
        return ExecutionStatus.FAILED
    return ExecutionStatus.TIMED_OUT if _ran_out(task) else ExecutionStatus.CANCELLED


def _ran_out(task: asyncio.Task[Any]) -> bool:
    coroutine: object = task.get_coro()
    while coroutine is not None:
        for held in gc.get_referents(coroutine):  # an `async with` keeps the way out of its manager on the stack
            manager = getattr(held, "__self__", None)
            if isinstance(manager, Timeout) and manager.expired():
                return True
        coroutine = _awaited_by(coroutine)
    for callback, *_ in getattr(task, "_callbacks", None) or ():
        if isinstance(callback, partial) and callback.args and isinstance(callback.args[0], asyncio.Future):
            # Python 3.11: `wait_for` runs what it is given in a task of its own, and waits for a future beside it.
            for waiting in _waiting_for(callback.args[0]):
                if not waiting.cancelling() or _ran_out(waiting):
                    return True
    return any(waiting.cancelling() and _ran_out(waiting) for waiting in _waiting_for(task))


def _awaited_by(coroutine: object) -> object:
    """What a coroutine, or an asynchronous generator, waits for."""
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if hasattr(coroutine, name):
            awaited: object = getattr(coroutine, name)
            return awaited
    # What `async for` waits for does not name its generator.
    return next((held for held in gc.get_referents(coroutine) if isinstance(held, AsyncGeneratorType)), None)


def _waiting_for(future: asyncio.Future[Any]) -> Iterator[asyncio.Task[Any]]:
    for callback, *_ in getattr(future, "_callbacks", None) or ():
        waiting = getattr(callback, "__self__", None)
        if isinstance(waiting, asyncio.Task):
            yield waiting
