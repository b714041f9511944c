"""A picture of a backtest: for every cell that differs, what each gate file says over time. Plain SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from analytics.text import iso

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from analytics.backtest.compare import Backtest
    from analytics.backtest.history import Turn

_COLOURS: Final = {"PROMOTE": "#2e7d32", "HOLD": "#f9a825", "ROLL_BACK": "#c62828", "INVALID": "#7b1fa2"}
_LEFT, _WIDTH, _ROW, _TOP = 330, 640, 46, 60


def timeline(found: Backtest) -> str:
    """Draw a backtest as SVG: two bars a cell, the old gate file above the new one."""
    cells = sorted({difference.cell for difference in found.differences})
    height = _TOP + _ROW * max(len(cells), 1) + 40
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}" '
            'font-family="sans-serif" font-size="12">'
        ),
        (
            f'<text x="10" y="20" font-size="14">Old gate file {found.old_sha256[:12]} above, '
            f"new {found.new_sha256[:12]} below</text>"
        ),
        *_legend(),
    ]
    if not cells:
        parts.append(f'<text x="10" y="{_TOP + 20}">No verdict differs.</text>')
    for row, cell in enumerate(cells):
        y = _TOP + row * _ROW
        name = f"{cell.workflow}/{cell.tool} {cell.stage}" + ("" if cell.cohort == "all" else f" ({cell.cohort})")
        parts.append(f'<text x="10" y="{y + 22}">{escape(name)}</text>')
        for turns, offset in ((found.old.get(cell, []), 4), (found.new.get(cell, []), 22)):
            parts += _bars(turns, found.since, found.until, y + offset)
    bottom = height - 15
    parts.append(f'<text x="{_LEFT}" y="{bottom}">{iso(found.since)}</text>')
    parts.append(f'<text x="{_LEFT + _WIDTH}" y="{bottom}" text-anchor="end">{iso(found.until)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> Iterator[str]:
    for place, (word, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + place * 120
        yield f'<rect x="{x}" y="34" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 17}" y="45">{word}</text>'


def _bars(turns: Sequence[Turn], since: datetime, until: datetime, y: float) -> Iterator[str]:
    span_s = max((until - since).total_seconds(), 1.0)

    def x(moment: datetime) -> float:
        return _LEFT + _WIDTH * min(max((moment - since).total_seconds() / span_s, 0.0), 1.0)

    ends = [*(turn.at for turn in turns[1:]), until]
    for turn, end in zip(turns, ends, strict=True):
        left, right = x(turn.at), x(end)
        word = turn.verdict.result.verdict.value
        told = escape(f"{iso(turn.at)} {word}: {turn.verdict.result.reasons[0].message}")
        yield (
            f'<rect x="{left:.1f}" y="{y}" width="{max(right - left, 1.0):.1f}" height="14" '
            f'fill="{_COLOURS[word]}"><title>{told}</title></rect>'
        )
