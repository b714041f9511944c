"""Detection of foreign packages that stand where ours should be: our top-level names are common ones."""

import importlib.util
from pathlib import Path

OWN_PACKAGES = ("producers", "analytics", "streams", "dashboard")  # besides the one of the distribution's name


class ShadowedPackageError(ImportError):
    """A foreign package comes first where Python looks for one of ours."""


def require_own_packages(*names: str) -> None:
    """Raise `ShadowedPackageError` where Python finds a foreign package under one of our names; nothing is imported."""
    folder = Path(__file__).resolve().parent.parent
    for name in names:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        own = folder / name / "__init__.py"
        if origin != own:
            raise ShadowedPackageError(
                f"`{name}` is {origin or 'missing'}, and not Stagekeeper's own, which is {own}. Rename that package or "
                "move it into another one; or run Stagekeeper where Python does not find it: in an environment of its "
                "own, or with `python -P`, which leaves the working folder out."
            )
