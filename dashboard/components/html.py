"""HTML that is escaped by construction: text becomes markup only by passing through `tag`."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"br", "path", "line", "rect", "circle", "polyline", "polygon"})


class Markup(str):
    """Text that is already HTML. Only this module makes it, so nothing from an event can pose as one."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"


def tag(name: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Build one element and everything in it.

    Args:
        name: The element's name.
        children: Markup is taken as it is, every other string is escaped, None is left out, iterables are flattened.
        attributes: Their values are escaped. A trailing underscore is dropped and other underscores become hyphens
            (`class_`, `aria_label`); None and False leave the attribute out, True writes it bare.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Markup(f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Put children one after another, escaping whatever is not markup."""
    return Markup("".join(_child(child) for child in children))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return escape(child)
    if isinstance(child, int):
        return str(child)
    return join(child)


def _attribute(key: str, value: str | float | bool | None) -> str:  # noqa: FBT001 - a value to write, not a switch
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
