"""The root of every error Stagekeeper raises on purpose."""

from __future__ import annotations


class StagekeeperError(Exception):
    """A named failure whose message says what is wrong, where, and how to mend it."""

    exit_code: int = 1  # what a command exits with when this error reaches it (2 is misuse, 1 a failure of the run)


class UsageError(StagekeeperError):
    """A person or a program asked for something that cannot be done as asked."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing, malformed or contradicts another one."""
