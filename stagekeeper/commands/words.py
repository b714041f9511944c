"""Who says something, and why: what every command that stays on record asks for, checked before anything is done."""

from __future__ import annotations

import click

_WHO = 200
_WHY = 4_000


class Words(click.ParamType):
    """Text that says something and fits the record.

    Args:
        name: What it is, for `--help`.
        longest: Most characters that the record has room for.
        one_line: Whether control characters, such as a line break, are refused.
    """

    def __init__(self, name: str, longest: int, *, one_line: bool) -> None:
        self.name = name
        self._longest = longest
        self._one_line = one_line

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text; misuse where it is blank, too long, or cannot be written down."""
        text = str(value)
        if not text.strip():
            self.fail("it is blank, and stays on record: say it in words", param, ctx)
        if len(text) > self._longest:
            self.fail(f"it has {len(text):,} characters; the record has room for {self._longest:,}", param, ctx)
        if self._one_line and any(character < " " or character == "\x7f" for character in text):
            self.fail("it holds a control character, such as a line break", param, ctx)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail("it is not valid text in UTF-8", param, ctx)
        return text


WHO = Words("who", _WHO, one_line=True)
WHY = Words("why", _WHY, one_line=False)
