"""Search decisions: by who asked, what for, what was decided and why, when, and words of the intent."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from analytics.audit.search_index import KEYS_A_MICROSECOND, OWN, PROFILE, key_of, term
from analytics.moments import in_utc
from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from analytics.audit.search_index import SearchIndex

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST: Final = 2**63 - 1  # what SQLite can compare a key with, and is beyond all of them
_WORD: Final = re.compile(r"[^\W_]+\*?")
# By filter: the fields that it looks at, any of which may hold the value.
_FIELDS: Final = {
    **{name: (name,) for name in (*PROFILE, *OWN)},
    "actor": ("agent", "user", "service_identity"),
    "target": ("system", "record", "environment"),
}


class UnusableSearchError(UsageError):
    """A search that cannot be carried out as asked."""


class DecisionQuery(BaseModel):
    """What is searched for: decisions for which everything given holds. Values are exact."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    actor: str | None = None
    """Agent, user or service identity."""
    user: str | None = None
    account: str | None = None
    tool: str | None = None
    target: str | None = None
    """System, record or environment of the action's target."""
    environment: str | None = None
    workflow: str | None = None
    outcome: str | None = None
    """`allow`, `constrain`, `queue_for_review`, `deny` or `fallback`."""
    stage: str | None = None
    cohort: str | None = None
    rule: str | None = None
    """The rule of hard authorization that decided."""
    reason: str | None = None
    """The outcome's reason."""
    risk_class: str | None = None
    source: str | None = None
    """The router."""
    since: datetime | None = None
    """Decided at this moment or later."""
    until: datetime | None = None
    """Decided before this moment."""
    text: str = ""
    """Words of the intent, all of which occur; `refund*` stands for all that begin so. Case does not matter."""

    @property
    def expression(self) -> str | None:
        """The same for SQLite's full-text index; None where no word narrows the search."""
        parts = []
        for name, fields in _FIELDS.items():
            value = getattr(self, name, None)
            if value is not None:
                words = [term(field, value) for field in fields]
                parts.append(words[0] if len(words) == 1 else f"({' OR '.join(words)})")
        words = _WORD.findall(self.text)
        if self.text.strip() and not words:
            raise UnusableSearchError(f"{self.text!r} holds no word to search for; write for example: refund twice*")
        parts += [f'"{word.removesuffix("*")}"{"*" if word.endswith("*") else ""}' for word in words]
        return " AND ".join(parts) or None


class DecisionHit(BaseModel):
    """One decision that was found."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    decision_id: str
    decided_at: datetime
    environment: str
    workflow: str
    tool: str
    stage: str
    cohort: str
    outcome: str
    mode: str | None
    reason: str
    rule: str | None
    agent: str
    user: str | None
    account: str | None
    service_identity: str | None
    system: str | None
    record: str | None
    risk_class: str | None
    source: str
    intent: str
    key: int = Field(repr=False)
    """Its place: whoever searches on from here gives it as `before`."""


class SearchPage(BaseModel):
    """What was found, the newest first."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hits: tuple[DecisionHit, ...]
    before: int | None
    """Where the next page begins; null where there is none."""
    events_version: int
    """Version of the table `events` that the answer is complete for."""


def search(
    index: SearchIndex, query: DecisionQuery, *, events_version: int, limit: int = 50, before: int | None = None
) -> SearchPage:
    """Find decisions in an index that has followed the lake to `events_version`; `before` goes on after a page.

    Raises `UnusableSearchError`, `UnusableMomentError` and `SearchIndexError`.
    """
    if limit < 1:
        raise UnusableSearchError(f"a search for {limit} decisions finds nothing; ask for one at least")
    hits = list(hits_of(index, query, limit=limit + 1, before=before))
    more = len(hits) > limit
    return SearchPage(
        hits=tuple(hits[:limit]), before=hits[limit - 1].key if more else None, events_version=events_version
    )


def hits_of(
    index: SearchIndex,
    query: DecisionQuery,
    *,
    limit: int = -1,
    before: int | None = None,
    after: int | None = None,
    oldest_first: bool = False,
) -> Iterator[DecisionHit]:
    """What is found, one by one, newest first unless `oldest_first`; -1 is no limit, the bounds are exclusive keys."""
    conditions, values = _conditions(query, before, after)
    expression, order = query.expression, "ASC" if oldest_first else "DESC"
    if expression is None:
        keys, column = "SELECT key FROM decisions", "key"
    else:
        keys, column = "SELECT rowid AS key FROM terms", "rowid"
        conditions, values = ["terms MATCH ?", *conditions], [expression, *values]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = (  # of parts that are written here; what was given travels beside it
        "SELECT d.key, d.decision_id, d.user, d.account, d.record, d.intent, p.fields FROM "  # noqa: S608
        f"({keys}{where.replace('key', column)} ORDER BY {column} {order} LIMIT ?) found "
        f"JOIN decisions d ON d.key = found.key JOIN profiles p ON p.id = d.profile ORDER BY d.key {order}"
    )
    for key, decision_id, user, account, record, intent, fields in index.select(
        statement, [*values, min(limit, _MOST)]
    ):
        profile = dict(zip(PROFILE, msgspec.json.decode(fields), strict=True))
        yield DecisionHit(
            key=key,
            decision_id=decision_id,
            decided_at=_EPOCH + timedelta(microseconds=key // KEYS_A_MICROSECOND),
            user=user,
            account=account,
            record=record,
            intent=intent,
            **profile,
        )


def _conditions(query: DecisionQuery, before: int | None, after: int | None) -> tuple[list[str], list[Any]]:
    bounds = [
        ("key >= ?", None if query.since is None else key_of(in_utc(query.since))),
        ("key < ?", None if query.until is None else key_of(in_utc(query.until))),
        ("key < ?", before),
        ("key > ?", after),
    ]
    given = [(condition, max(-_MOST, min(value, _MOST))) for condition, value in bounds if value is not None]
    return [condition for condition, _ in given], [value for _, value in given]
