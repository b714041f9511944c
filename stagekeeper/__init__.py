"""Stagekeeper: audit and gate the authority of AI agents, from decisions to evidence to the next stage.

A tool router imports everything it needs from here: `__init__.pyi` lists the names. They load when they are first used,
so that importing the package costs a router nothing.
"""

import ast
import importlib
import pkgutil

from stagekeeper.own_packages import require_own_packages

require_own_packages("producers")
_MODULE_OF = {
    alias.name: node.module or ""
    for node in ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"").body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the stub is the list


def __getattr__(name: str) -> object:
    """Load a public name from the module where it lives."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'stagekeeper' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
