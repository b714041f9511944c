"""Whether a tool's answer reports a failure, where the recording itself does not say whether the call failed.

A recorded flag comes first (`Result.failed` in `producers.importers.steps`). Then the answer is looked at: fields of a
JSON object that services use for failures, else how a text begins. Rules of one's own come before these.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

_TRUE_IF_FAILED: Final = ("isError", "is_error", "failed")
_FALSE_IF_FAILED: Final = ("success", "succeeded", "ok")
_EXIT_CODES: Final = ("exit_code", "exitCode", "returncode", "return_code", "exit_status")
_HTTP_STATUSES: Final = ("status_code", "statusCode", "http_status", "status", "code")
_FAILED_STATUSES: Final = frozenset({"error", "errored", "failed", "failure", "exception", "fatal", "timeout"})
_NOTHING: Final = frozenset({"", "0", "none", "null", "false", "no", "nil", "n/a"})

# "Errors: 0", "Error-free run" and "Error rate: 2 %" are no failures; "Error: …", "Error 404" and "error" are.
_TEXT: Final = re.compile(
    r"""\s*(?:
      <(?:tool_use_)?error>
    | (?:an\s)?(?:(?:tool|function|command|runtime|internal|server|api|unexpected|unhandled|execution)\s){0,3}error
      (?![\w-]) (?!\s*[:=]\s*(?:0|none|null|false|nil)\b)
      (?!\s+(?:rates?|counts?|budgets?|margins?|bars?|logs?|handling|corrections?|analysis|tracking|reports?)\b)
    | (?-i:(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception))(?=[:(\s]|$)
    | (?:an\s|unhandled\s|uncaught\s)?exception(?=[:\s]|$)
    | traceback\s\(most\srecent\scall\slast\)
    | (?:tool|function|command|request|call|execution|operation|connection|process|query)
      (?:\s[\w`'"./-]+){0,3}\sfailed\b
    | fail(?:ed|ure)(?:\sto\b|\s*[:!.]|\s*$)
    | fatal\s*:
    | http(?:/\d(?:\.\d)?)?(?:\s(?:status|error|code))*[\s:]+[45]\d\d\b
    | [45]\d\d\s(?:internal\sserver|bad\s(?:request|gateway)|unauthorized|forbidden|not\sfound|service\sunavailable
        |gateway\stime-?out|too\smany|conflict|(?:client|server)\serror)
    | (?:(?:process|command|program)\s)?exit(?:ed|s)?(?:\swith)?(?:\s(?:code|status)){1,2}[:\s]+-?[1-9]
    | (?:permission|access)\sdenied\b
    | (?:(?:the|tool|request|operation|connection|command)\s){0,2}time(?:d\s|-)?out\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class FailureRules:
    """How an answer is read. `succeeded` and `failed` are searched in its text, in this order, before all else."""

    failed: tuple[re.Pattern[str], ...] = ()
    succeeded: tuple[re.Pattern[str], ...] = ()

    def failure_in(self, answer: object, text: str) -> bool:
        """Whether an answer reports a failure; `answer` is as it was recorded, `text` what it says."""
        if any(pattern.search(text) for pattern in self.succeeded):
            return False
        if any(pattern.search(text) for pattern in self.failed):
            return True
        return _reports_failure(answer) if isinstance(answer, dict) else _text_reports_failure(text)


def _text_reports_failure(text: str) -> bool:
    if text.lstrip()[:1] == "{":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and _reports_failure(value)
    return _TEXT.match(text) is not None


def _reports_failure(answer: dict[str, object]) -> bool:
    errors, status = answer.get("errors"), answer.get("status")
    return (
        any(answer.get(name) is True for name in _TRUE_IF_FAILED)
        or any(answer.get(name) is False for name in _FALSE_IF_FAILED)
        or any(_says_something(answer.get(name)) for name in ("error", "exception"))
        or (isinstance(errors, list | dict) and bool(errors))
        or any(type(code := answer.get(name)) is int and code != 0 for name in _EXIT_CODES)
        or any(type(code := answer.get(name)) is int and 400 <= code < 600 for name in _HTTP_STATUSES)
        or answer.get("type") == "error"
        or (isinstance(status, str) and status.lower() in _FAILED_STATUSES)
    )


def _says_something(error: object) -> bool:
    if isinstance(error, str):
        return error.strip().lower() not in _NOTHING
    return error is True or (isinstance(error, dict | list) and bool(error))
