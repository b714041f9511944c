"""Calls of a flag service's management API: each within a deadline, repeated where that is safe, errors by name."""

from __future__ import annotations

import functools
import json
import random
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from producers.boundary.stage_store import StageConflictError, StageStoreError
from producers.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

Json = Any

DEADLINE_S: Final = 10.0  # for one call with all its repetitions
_ONE_TRY_S: Final = 3.0
_FIRST_PAUSE_S: Final = 0.2  # doubles with each try, up to the next
_LONGEST_PAUSE_S: Final = 2.0
_MOST_BYTES: Final = 32 * 2**20
_NOT_NOW: Final = frozenset({429, 503})  # refused, not begun
_BROKEN: Final = frozenset({500, 502, 504})


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # which takes a tenth of a second


class OutcomeUnknownError(StageStoreError):
    """A write got no answer that says whether it was made: look at what is there."""


class Answer(NamedTuple):
    """What the service said."""

    status: int
    body: Json


@dataclass(frozen=True)
class ManagementApi:
    """A service's address and the token for it, which appears in no message. Safe to use from many threads."""

    service: str  # its name, for people
    url: str
    token: str = field(repr=False)
    deadline_s: float = DEADLINE_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _client: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            import httpx  # noqa: PLC0415 - the base install has no such store
        except ImportError as error:
            raise SettingsError(f"{self.service} takes httpx: pip install 'stagekeeper[flag-services]'") from error
        if not self.token.strip() or not self.token.isascii() or not self.token.isprintable():
            raise SettingsError(
                f"{self.service} takes a token of its management API in one line of ASCII; "
                "set STAGEKEEPER_STAGE_STORE_TOKEN"
            )
        client = httpx.Client(base_url=self.url, headers={"authorization": self.token}, verify=_tls())
        object.__setattr__(self, "_client", client)

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Answer:
        """Read, again and again until the deadline where the service is busy, broken or silent."""
        return self._call("GET", path, params=params, is_write=False)

    def write(self, method: str, path: str, body: Json = None) -> Answer:
        """Write; repeated only where the service says that it has not begun.

        Raises:
            OutcomeUnknownError: It was sent, and nothing says whether it was made.
            StageConflictError: The service says that what was there is no more.
            StageStoreError: It was not made.
        """
        return self._call(method, path, body=body, is_write=True)

    def _call(
        self,
        method: str,
        path: str,
        *,
        is_write: bool,
        params: Mapping[str, str | int] | None = None,
        body: Json = None,
    ) -> Answer:
        import httpx  # noqa: PLC0415 - as above

        ends_at, pause_s = self.clock() + self.deadline_s, _FIRST_PAUSE_S
        while True:
            wait_s: float | None = None
            try:
                answer, wait_s = self._once(method, path, params, body, ends_at)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                why, is_known = f"it cannot be reached: {error or type(error).__name__}", True
            except httpx.HTTPError as error:
                why, is_known = f"it does not answer: {error or type(error).__name__}", False
            else:
                if answer.status not in _NOT_NOW | _BROKEN or (is_write and _is_failed_test(answer)):
                    return self._checked(method, path, answer)
                why, is_known = f"it answers {answer.status}{_words(answer.body)}", answer.status in _NOT_NOW
            if is_write and not is_known:
                raise OutcomeUnknownError(f"{self._named(method, path)}: {why}; whether it was made is not known")
            # Up to half of it again, so that those whom one service refused do not all come back at once.
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            wait_s = max(wait_s or 0.0, pause_s * (1 + random.random()) / 2)  # noqa: S311 - no secret
            if self.clock() + wait_s >= ends_at:
                raise StageStoreError(
                    f"{self._named(method, path)}: {why}, within {self.deadline_s:g} s; nothing was changed. Look at "
                    f"the service at {self.url}, and try again."
                )
            self.sleep(wait_s)

    def _once(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: Json, ends_at: float
    ) -> tuple[Answer, float | None]:
        import httpx  # noqa: PLC0415 - as above

        chunks, size = [], 0
        timeout_s = max(0.1, min(_ONE_TRY_S, ends_at - self.clock()))
        with self._client.stream(method, path, params=params, json=body, timeout=timeout_s) as response:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if self.clock() > ends_at:
                    raise httpx.ReadTimeout("the answer does not end")
                if size > _MOST_BYTES:
                    raise StageStoreError(f"{self._named(method, path)} answers more than {_MOST_BYTES:,} bytes")
        content = b"".join(chunks)
        try:
            document = json.loads(content) if content else None
        except ValueError:
            document = content[:200].decode(errors="replace")
        retry_after = response.headers.get("retry-after", "")
        return Answer(response.status_code, document), float(retry_after) if retry_after.isdecimal() else None

    def _checked(self, method: str, path: str, answer: Answer) -> Answer:
        named = self._named(method, path)
        if answer.status in {401, 403}:
            raise StageStoreError(
                f"{named}: it answers {answer.status}: the token may not do that{_words(answer.body)}. Make one that "
                "may read and change flags, and set STAGEKEEPER_STAGE_STORE_TOKEN."
            )
        if answer.status == 409 or _is_failed_test(answer):
            raise StageConflictError(f"{named}: somebody else has changed it meanwhile; look at it again")
        if answer.status != 404 and not 200 <= answer.status < 300:
            raise StageStoreError(f"{named}: it answers {answer.status}{_words(answer.body)}; nothing was changed")
        return answer

    def _named(self, method: str, path: str) -> str:
        return f"{self.service}, {method} {path}"


def quoted(name: str) -> str:
    """A name as one segment of a path."""
    return urllib.parse.quote(name, safe="")


def _is_failed_test(answer: Answer) -> bool:
    """Whether a JSON Patch was refused by a `test` in it, which Unleash says as a failure of its own."""
    return answer.status >= 400 and "TEST_OPERATION_FAILED" in json.dumps(answer.body)


def _words(body: Json) -> str:
    """What a service says of a failure, shortly."""
    match body:
        case {"message": str(words)}:
            return f" ({words[:200]})"
        case {"errors": [*errors]} if errors:
            return f" ({', '.join(map(str, errors))[:200]})"
        case str(words) if words.strip():
            return f" ({words.strip()[:100]})"
    return ""
