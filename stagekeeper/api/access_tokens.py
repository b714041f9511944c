"""Tokens of the service: who may ask, as which agent of which service, and for what."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from producers.errors import UsageError
from producers.strict_yaml import ConfigurationFileError, parse_yaml, read_file
from producers.wire.model import Moment, Name, Sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PREFIX = "skt1"
_LOOK_S = 0.5  # how long a revoked token may go on


class AccessScope(StrEnum):
    """What a token lets its holder ask for."""

    DECIDE = "decide"
    """Decisions, and the redeeming of approvals."""
    REPORT = "report"
    """Executions, undos and impacts."""
    REVIEW = "review"
    """The actions that wait for a person, and that person's word."""
    READ = "read"
    """Gate, cells, verdicts, recommendations and stages."""
    OPERATE = "operate"
    """Accept and dismiss recommendations, change stages."""


_PERSONAL = frozenset({AccessScope.REVIEW, AccessScope.OPERATE})


class _TokenFileModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AccessToken(_TokenFileModel):
    """One token, of which only the digest is kept."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    sha256: Sha256
    """Of the whole token, which is drawn at random."""
    scopes: Annotated[tuple[AccessScope, ...], Field(min_length=1)]
    agent: Name | None = None
    """The agent that asks; contracts of another one are refused."""
    service: Name | None = None
    """The workload that asks on its behalf; recorded as `service_identity`."""
    person: Name | None = None
    """The person who reviews or operates."""
    per_second: Annotated[float, Field(gt=0)] = 1_000.0
    """How many requests a second are answered."""
    created_at: Moment
    expires_at: Moment | None = None
    revoked_at: Moment | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        scopes = set(self.scopes)
        if AccessScope.DECIDE in scopes and (self.agent is None or self.service is None):
            raise ValueError("a token that decides names its agent and its service")
        if scopes & _PERSONAL and self.person is None:
            raise ValueError("a token that reviews or operates names its person")
        if AccessScope.DECIDE in scopes and scopes & _PERSONAL:
            raise ValueError("no token both decides and reviews or operates: an agent would approve its own actions")
        return self

    def holds(self, at: datetime) -> bool:
        """Whether it may be used at a moment."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


class TokensFile(_TokenFileModel):
    """All tokens (YAML)."""

    version: Literal[1] = 1
    tokens: tuple[AccessToken, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; `ConfigurationFileError` where it is missing, or says something that it may not."""
        hint = "`stagekeeper token new` writes a first one; STAGEKEEPER_TOKENS_FILE names it."
        text = read_file(path, name="the tokens file", hint=hint)
        file = parse_yaml(text, cls, origin=str(path))
        ids = [token.id for token in file.tokens]
        if twice := sorted({each for each in ids if ids.count(each) > 1}):
            raise ConfigurationFileError(f"{path}: tokens need distinct ids; twice there: {', '.join(twice)}")
        return file


class UnknownAccessTokenError(UsageError):
    """No token has this id."""


def draw_token(path: Path, **fields: object) -> tuple[AccessToken, str]:
    """Draw a token and put its digest into the file; returns what is kept, and the token itself, which is not."""
    token_id = secrets.token_hex(6)
    text = f"{_PREFIX}.{token_id}.{secrets.token_urlsafe(32)}"
    try:
        token = AccessToken.model_validate(
            {"id": token_id, "sha256": _sha256(text), "created_at": datetime.now(UTC), **fields}
        )
    except ValueError as error:
        raise UsageError(f"there can be no such token: {error}") from error
    with _changing(path) as file:
        _write(path, TokensFile(tokens=(*file.tokens, token)))
    return token, text


def revoke_token(path: Path, token_id: str) -> AccessToken:
    """End a token; a service that runs refuses it within a second. `UnknownAccessTokenError` where there is none."""
    with _changing(path) as file:
        known = {token.id: token for token in file.tokens}
        if token_id not in known:
            raise UnknownAccessTokenError(
                f"no token in {path} has the id {token_id!r}; `stagekeeper token list` shows them"
            )
        ended = known[token_id]
        if ended.revoked_at is None:
            ended = ended.model_copy(update={"revoked_at": datetime.now(UTC)})
        _write(path, TokensFile(tokens=tuple((known | {token_id: ended}).values())))
    return ended


class TokenChecker:
    """Tells whose a token is, by the file as it is now; while that cannot be read, it is nobody's."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._now = now
        self._clock = clock
        self._tokens: dict[str, AccessToken] = {}
        self._version: tuple[int, ...] | None = None
        self._looked_at = -_LOOK_S
        self.fault: ConfigurationFileError | None = None  # why no token is accepted
        self.look()
        if self.fault is not None:
            raise self.fault

    def check(self, text: str) -> AccessToken | None:
        """The token, if it is one, and holds."""
        if self._clock() - self._looked_at >= _LOOK_S:
            self.look()
        # As long for an unknown id as for a known one, so that ids cannot be told by the time.
        token = self._tokens.get(text.split(".")[1] if text.count(".") == 2 else "")
        expected = token.sha256 if token is not None else "0" * 64
        if not hmac.compare_digest(expected, _sha256(text)) or token is None:
            return None
        return token if token.holds(self._now()) else None

    def look(self) -> None:
        """Read the file, where it has changed."""
        self._looked_at = self._clock()
        try:
            stat = self._path.stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if version == self._version:
                return
            file = TokensFile.load(self._path)
        except (ConfigurationFileError, OSError) as error:
            self._tokens, self._version = {}, None
            self.fault = (
                error if isinstance(error, ConfigurationFileError) else ConfigurationFileError(_missing(self._path))
            )
        else:
            self._tokens = {token.id: token for token in file.tokens}
            self._version, self.fault = version, None


def _missing(path: Path) -> str:
    return f"the tokens file {path} is not there: `stagekeeper token new` writes it"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[TokensFile]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield TokensFile.load(path) if path.exists() else TokensFile()


def _write(path: Path, file: TokensFile) -> None:
    """Put the file in place in one step, readable by its owner alone."""
    rows = [token.model_dump(mode="json", exclude_none=True) for token in file.tokens]
    about = "# Tokens of the service, by their digests. `stagekeeper token` writes this file."
    # JSON is YAML.
    lines = [about, "version: 1", "tokens:", *(f"  - {json.dumps(row, ensure_ascii=False)}" for row in rows)]
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as writing:
            writing.write("\n".join(lines) + "\n")
            writing.flush()
            os.fsync(writing.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
