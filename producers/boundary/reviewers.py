"""Reviewers: whose word on a queued action counts, and how a person is told from a name."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from producers.errors import UsageError
from producers.strict_yaml import ConfigurationFileError, parse_yaml, read_file
from producers.wire.model import Name, Sha256

if TYPE_CHECKING:
    from pathlib import Path


class UnknownTokenError(UsageError):
    """A reviewer's token is nobody's."""


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Who speaks about a queued action."""

    name: str
    authenticated: bool = False  # whether somebody has checked that it is this person, and not only this name


def person_of(name: str) -> str:
    """A name in the form in which one person's names are equal: without case, width, invisible letters, odd spaces."""
    visible = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return " ".join(visible.casefold().split())


class _FileModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnrolledReviewer(_FileModel):
    """A person, and how that person is known."""

    name: Name
    token_sha256: Sha256
    """Digest of the token that `stagekeeper review enrol` has drawn for this person."""


class ReviewersFile(_FileModel):
    """The persons whose word counts as theirs (YAML)."""

    version: Literal[1]
    reviewers: Annotated[tuple[EnrolledReviewer, ...], Field(min_length=1)]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; `ConfigurationFileError` where it says something that it may not."""
        text = read_file(path, name="the reviewers file", hint="STAGEKEEPER_REVIEWERS_FILE names it.")
        file = parse_yaml(text, cls, origin=str(path))
        for what, values in (
            ("name", [person_of(reviewer.name) for reviewer in file.reviewers]),
            ("token", [reviewer.token_sha256 for reviewer in file.reviewers]),
        ):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ConfigurationFileError(
                    f"{path}: each reviewer needs a {what} of their own; twice there: {twice[0]}"
                )
        return file

    def authenticate(self, token: str) -> Reviewer:
        """The person whom a token belongs to; `UnknownTokenError` where it is nobody's."""
        digest = token_sha256(token)
        for reviewer in self.reviewers:
            if hmac.compare_digest(reviewer.token_sha256, digest):
                return Reviewer(reviewer.name, authenticated=True)
        raise UnknownTokenError("this reviewer's token is nobody's; `stagekeeper review enrol` draws a new one")


def token_sha256(token: str) -> str:
    """What the reviewers file holds of a token: tokens are drawn at random, so a plain digest gives none away."""
    return hashlib.sha256(token.encode()).hexdigest()
