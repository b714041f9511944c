"""Admit requests: a token that holds, the scope that it takes, and no more of them than the token's rate."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from stagekeeper.api.access_tokens import AccessScope, AccessToken
from stagekeeper.api.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stagekeeper.api.access_tokens import TokenChecker

_MOST_BUCKETS: Final = 10_000
_FAILURES_A_SECOND: Final = 10.0  # from one address, before these are told to wait

_bearer = HTTPBearer(auto_error=False, description="A token of `stagekeeper token new`.")


class RateLimiter:
    """Buckets of requests by name, each refilled at a rate and holding a second of it. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, per_second: float) -> float:
        """Take one; 0, or the seconds until there is one."""
        now, most = self._clock(), max(1.0, per_second)
        left, at = self._buckets.pop(name, (most, now))
        left = min(most, left + (now - at) * per_second)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / per_second
        self._buckets[name] = (left if wait_s else left - 1.0, now)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return wait_s


class AccessControl:
    """Decides who is answered."""

    def __init__(self, checker: TokenChecker, limiter: RateLimiter | None = None) -> None:
        self.checker = checker
        self.limiter = limiter or RateLimiter()

    def admit(self, text: str | None, address: str, scope: AccessScope) -> AccessToken:
        """The token of a request; raises `ProblemError` 401, 403 or 429."""
        token = self.checker.check(text) if text else None
        if token is None:
            # Only of those without a token: others at the address, as behind a proxy, are not to blame.
            if (wait_s := self.limiter.take(f"failures {address}", _FAILURES_A_SECOND)) > 0:
                _slow_down(wait_s, "too many requests with an unusable token come from this address")
            raise ProblemError(
                401,
                "unauthenticated",
                "the request has no token that holds; send `Authorization: Bearer TOKEN`, with one of "
                "`stagekeeper token new`",
                {"WWW-Authenticate": "Bearer"},
            )
        if (wait_s := self.limiter.take(f"token {token.id}", token.per_second)) > 0:
            _slow_down(wait_s, f"the token {token.id} may ask {token.per_second:g} times a second")
        if scope not in token.scopes:
            raise ProblemError(
                403,
                "missing_scope",
                f"this takes the scope `{scope}`; the token {token.id} has {', '.join(token.scopes)}",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            )
        return token


def _slow_down(wait_s: float, why: str) -> NoReturn:
    raise ProblemError(429, "too_many_requests", why, {"Retry-After": str(math.ceil(wait_s))})


def _scope(scope: AccessScope) -> Callable[..., object]:
    async def admitted(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> AccessToken:
        control: AccessControl = request.app.state.access
        address = request.client.host if request.client is not None else "unknown"
        return control.admit(credentials.credentials if credentials is not None else None, address, scope)

    return admitted


Deciding = Annotated[AccessToken, Depends(_scope(AccessScope.DECIDE))]
Reporting = Annotated[AccessToken, Depends(_scope(AccessScope.REPORT))]
Reviewing = Annotated[AccessToken, Depends(_scope(AccessScope.REVIEW))]
Reading = Annotated[AccessToken, Depends(_scope(AccessScope.READ))]
Operating = Annotated[AccessToken, Depends(_scope(AccessScope.OPERATE))]
