"""What was measured of promotion rules, as tables of a page, as lines, and as a picture."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Final

from promotion_rules import ALPHA, PEEKED, ROW_OF_20, SHARE_95, THRESHOLD
from rule_scenarios import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH: Final = 720
_HEIGHT: Final = 320
_LEFT: Final = 60
_TOP: Final = 44
_BELOW: Final = 40
_MARK: Final = "<!-- {}: {} -->"
_SHOWN: Final = (
    (SHARE_95.name, "#c8553d"),
    (ROW_OF_20.name, "#d59b2d"),
    (PEEKED.name, "#7a869a"),
    (OURS, "#0b6e4f"),
)


def percent(share: dict[str, float] | None, level: float = ALPHA) -> str:
    """A share with its exact interval; bold where the whole interval lies above the level."""
    if share is None:
        return "-"
    text = f"{100 * share['share']:.1f} % [{100 * share['low']:.1f} to {100 * share['high']:.1f}]"
    return f"**{text}**" if share["low"] > level else text


def minutes(delay: dict[str, float | None] | None) -> str:
    """Median and 90 % of a delay."""
    if delay is None:
        return "-"
    return " / ".join("never" if at is None else f"{at:,.0f}" if at >= 10 else f"{at:.1f}" for at in delay.values())


def summary(scenario: dict[str, Any]) -> Iterator[str]:
    """One line a rule."""
    for row in scenario["rows"]:
        yield (
            f"  {row['rule']:<60}  wrong promotions {percent(row['wrong_promotions']):<24}"
            f"  wrong rollbacks {percent(row['wrong_rollbacks']):<24}"
            f"  minutes to promote {minutes(row['minutes_to_promote'])},"
            f" to roll back {minutes(row['minutes_to_roll_back'])}"
        )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _constant(found: dict[str, Any]) -> str:
    steady = [each for each in found["scenarios"] if each["rate"] is not None]
    rules = [row["rule"] for row in steady[0]["rows"]]
    by_rule = {rule: [next(r for r in each["rows"] if r["rule"] == rule) for each in steady] for rule in rules}
    heads = ["Ever promoted, at a true rate of", *(f"{100 * each['rate']:g} %" for each in steady)]
    promoted = [[rule, *(f"{100 * row['promoted']['share']:.1f} %" for row in by_rule[rule])] for rule in rules]
    back = [[rule, *(f"{100 * row['rolled_back']['share']:.1f} %" for row in by_rule[rule])] for rule in rules]
    return "\n\n".join([_table(heads, promoted), _table(["Ever rolled back, at", *heads[1:]], back)])


def _detail(scenario: dict[str, Any]) -> str:
    level = scenario["promised"] or ALPHA
    columns = (
        ("wrong promotions", "wrong_promotions", partial(percent, level=level)),
        ("wrong rollbacks", "wrong_rollbacks", partial(percent, level=level)),
        ("minutes to promote", "minutes_to_promote", minutes),
        ("minutes to roll back", "minutes_to_roll_back", minutes),
    )
    shown = [each for each in columns if any(row[each[1]] is not None for row in scenario["rows"])]
    rows = [[row["rule"], *(say(row[key]) for _, key, say in shown)] for row in scenario["rows"]]
    return (
        f"**{scenario['name'].capitalize()}**: {scenario['says']}. {scenario['streams']} streams of"
        f" {scenario['minutes'] / 60:,.3g} hours, {scenario['actions_a_minute']:.2g} actions a minute; our engine looks"
        f" every {scenario['look_every_min']} minutes.\n\n" + _table(["Rule", *(head for head, _, _ in shown)], rows)
    )


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The parts of the page that are measured, by the names of their marks."""
    steady = {each["rate"]: each for each in found["scenarios"] if each["rate"] is not None}
    own = [
        [row["rule"], f"{100 * row['own_limit']:g} %", percent(row["at_limit"]), percent(row["beyond"])]
        for row in found["own_terms"]
    ]
    told = [_detail(steady[rate]) for rate in (0.005, 0.01, THRESHOLD, 0.04, 0.06) if rate in steady]
    others = [_detail(each) for each in found["scenarios"] if each["rate"] is None]
    heads = ["Rule", "its own limit", "promotes at that limit", "promotes at 1.5 times that"]
    return {
        "constant": "\n\n".join([_constant(found), *told]),
        "own limits": _table(heads, own),
        "scenarios": "\n\n".join(others),
    }


def with_tables(page: str, found: dict[str, Any]) -> str:
    """A page whose marked parts hold what was found."""
    for name, table in tables(found).items():
        start, end = _MARK.format(name, "start"), _MARK.format(name, "end")
        before, rest = page.split(start)
        _, after = rest.split(end)
        page = f"{before}{start}\n{table}\n{end}{after}"
    return page


def picture(found: dict[str, Any]) -> str:
    """The share ever promoted against the true rate, as SVG: ours beside three of the wild."""
    steady = [each for each in found["scenarios"] if each["rate"] is not None]
    right, down = _WIDTH - 20, _HEIGHT - _TOP - _BELOW
    across = (right - _LEFT) / (len(steady) - 1)

    def text(x: float, y: float, said: str, anchor: str = "middle", color: str = "#333") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{color}">{escape(said)}</text>'

    def height(share: float) -> float:
        return _HEIGHT - _BELOW - share * down

    def curve(rule: str, color: str) -> str:
        shares = [next(r for r in each["rows"] if r["rule"] == rule)["promoted"]["share"] for each in steady]
        points = [(_LEFT + place * across, height(share)) for place, share in enumerate(shares)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points)
        return f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{joined}"/>{dots}'

    at_limit = _LEFT + next(i for i, each in enumerate(steady) if each["rate"] >= THRESHOLD) * across
    grid = [
        f'<path stroke="#ddd" d="M{_LEFT} {height(part / 4):.1f}H{right}"/>'
        + text(_LEFT - 6, height(part / 4) + 4, f"{25 * part} %", "end")
        for part in range(5)
    ]
    marks = [
        text(_LEFT + place * across, _HEIGHT - _BELOW + 16, f"{100 * each['rate']:g} %")
        for place, each in enumerate(steady)
    ]
    names = {SHARE_95.name: "95 % of at least 20", PEEKED.name: "binomial test, peeked"}
    legend = [
        text(_LEFT + 168 * place, 36, f"● {names.get(rule, rule)}", "start", color)
        for place, (rule, color) in enumerate(_SHOWN)
    ]
    streams, actions = steady[0]["streams"], steady[0]["minutes"] * steady[0]["actions_a_minute"]
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
    return "\n".join(
        [
            frame + 'font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
            text(_LEFT, 18, f"Ever promoted within {actions:,.0f} actions, by the true failure rate", "start"),
            *legend,
            *grid,
            *marks,
            f'<path stroke="#333" stroke-dasharray="3 3" d="M{at_limit:.1f} {_TOP}V{_HEIGHT - _BELOW}"/>',
            text(at_limit + 6, _TOP + 30, "the limit: from here on, every promotion is wrong", "start"),
            f'<path stroke="#333" stroke-dasharray="1 3" d="M{_LEFT} {height(ALPHA):.1f}H{right}"/>',
            text(right, height(ALPHA) - 4, "5 %", "end"),
            *(curve(rule, color) for rule, color in _SHOWN),
            text(_WIDTH / 2, _HEIGHT - 6, f"true failure rate; {streams} streams each, made by benchmarks/rules.py"),
            "</svg>\n",
        ]
    )
