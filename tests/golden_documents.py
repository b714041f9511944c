"""Golden form of verdict documents: numbers, sentences and identities apart, floats to ten digits, verdicts by name."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Document: TypeAlias = dict[str, Any]

KEYS: Final[Mapping[str, str]] = {}
"""Renamed keys of verdict documents and signal rows, old to new: what the golden files call `old` is now `new`. Either
a bare key, or `parent.key` where only that one was renamed."""

DIGITS: Final = 10
"""Significant digits of a stored float."""
REL_TOL, ABS_TOL = 2e-9, 1e-11
"""How far a float may be from the stored one: another order of summation moves the last bits, and no rule does less."""
CHECKSUM_TOL: Final = 1e-6
"""How far the number that stands for all floats of a cell may be from the stored one."""

SENTENCES: Final = frozenset({"summary", "message", "assumes"})
"""Keys whose text is for people; `unit` of a whole verdict is one as well."""
IDENTITIES: Final = frozenset({"evidence_sha256", "gate_sha256", "lake_version", "events_version"})
"""Keys whose value depends on how things are written down, not on what follows from them; and the verdict's own id."""

_ID_LENGTH: Final = 16
_ID: Final = re.compile(r"\b[0-9a-fr][0-9a-f]{15}\b")


def normal(value: Any, names: Mapping[str, str], parent: str = "") -> Any:
    """A document of today under the keys of the golden files, floats to ten digits, and verdicts by name.

    Args:
        value: The document, or a part of it.
        names: What verdicts are called in place of their ids, also inside sentences.
        parent: Under which key the part stands.
    """
    if isinstance(value, dict):
        kept = {}
        for key, part in value.items():
            old = _old(key, parent) if KEYS else key
            kept[old] = normal(part, names, old)
        return kept
    if isinstance(value, list):
        return [normal(part, names, parent) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, str) and len(value) >= _ID_LENGTH:
        return _ID.sub(lambda found: names.get(found[0], found[0]), value)
    return value


def _old(key: str, parent: str) -> str:
    for old, new in KEYS.items():
        scope, _, bare = old.rpartition(".")
        if new.rpartition(".")[2] == key and scope in {"", parent}:
            return bare
    return key


def parted(document: Document) -> tuple[Document, Document, Document]:
    """A document's numbers and codes; its sentences by path; its identities by path."""
    sentences: Document = {}
    identities: Document = {}

    def keep(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [keep(part, f"{path}[{place}]") for place, part in enumerate(value)]
        if not isinstance(value, dict):
            return value
        kept = {}
        for key, part in value.items():
            here = f"{path}.{key}" if path else key
            if key in SENTENCES or here == "unit":
                sentences[here] = part
            elif key in IDENTITIES or here == "verdict_id":
                identities[here] = part
            else:
                kept[key] = keep(part, here)
        return kept

    return keep(document, ""), sentences, identities


def checked(value: Any) -> tuple[str, float]:
    """A digest of everything but the floats, and one number that any change of a float moves.

    A digest over rounded floats would turn where the last bit does; the number moves as little as the floats do, and
    for each of them by its relative change, so that no large one hides a small one.
    """
    floats: list[float] = []

    def walk(part: Any) -> Any:
        if isinstance(part, float):
            floats.append((1.0 + (len(floats) * 0.618) % 1.0) * math.asinh(1e6 * part))
            return "float"
        if isinstance(part, dict):
            return {key: walk(part[key]) for key in sorted(part)}
        return [walk(each) for each in part] if isinstance(part, list) else part

    text = json.dumps(walk(value), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8], round(math.fsum(floats), 7)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where two values differ, one line each: the path, what was, what is."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _parting(old, new, key, f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list):
        was, now = dict(enumerate(old)), dict(enumerate(new))
        for place in range(max(len(old), len(new))):
            yield from _parting(was, now, place, f"{path}[{place}]")
    elif not _alike(old, new, is_checksum=".checksums." in path):
        yield f"{path}: {_short(old)} → {_short(new)}"


def _parting(old: Mapping[Any, Any], new: Mapping[Any, Any], key: Any, path: str) -> Iterator[str]:
    if key not in old:
        yield f"{path}: (absent) → {_short(new[key])}"
    elif key not in new:
        yield f"{path}: {_short(old[key])} → (absent)"
    else:
        yield from differences(old[key], new[key], path)


def _alike(old: Any, new: Any, *, is_checksum: bool) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        rel_tol, abs_tol = (0.0, CHECKSUM_TOL) if is_checksum else (REL_TOL, ABS_TOL)
        return math.isclose(old, new, rel_tol=rel_tol, abs_tol=abs_tol)
    return type(old) is type(new) and bool(old == new)


def write(path: Path, value: Any) -> None:
    """Write a golden file; equal values give equal bytes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def read(path: Path) -> Any:
    """Read a golden file."""
    return json.loads(gzip.decompress(path.read_bytes()))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
