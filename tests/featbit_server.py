"""FeatBit's management API as it is published (5.4), for tests: each request is checked."""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN: Final = "api-a-token-of-the-tests"  # noqa: S105 - of a server that lives for a test
ENVIRONMENT: Final = "7f0ae4e8-5a0c-4f0c-9d1d-2a1b3c4d5e6f"

_ROOT: Final = f"/api/v1/envs/{ENVIRONMENT}"
_TARGETING: Final = {"disabledVariationId", "targetUsers", "rules", "fallthrough", "exptIncludeAllTargets"}
_RULE: Final = {"id", "name", "dispatchKey", "includedInExpt", "conditions", "variations"}


class _RefusedError(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


@dataclass
class FeatBitServer:
    """The flags of one environment."""

    url: str = ""
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)  # the audit log, newest first
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # what a client did that the API does not have
    # Called once for the next write: before it is made, or after; what it gives is the answer's status, None for none
    before: Callable[[], int | None] | None = None
    after: Callable[[], int | None] | None = None

    def answer(self, method: str, path: str, token: str | None, body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if token != TOKEN:
            return 401, None
        is_write = method != "GET"
        if is_write and self.before is not None:
            hook, self.before = self.before, None
            if (status := hook()) is not None:
                return status, {"success": False, "errors": ["InternalServerError"], "data": None}
        try:
            data = self._data(method, path, body)
        except _RefusedError as refused:
            return refused.status, {"success": False, "errors": [refused.error], "data": None}
        if is_write and self.after is not None:
            hook, self.after = self.after, None
            if (status := hook()) is not None:
                return status, {"success": False, "errors": ["InternalServerError"], "data": None}
        return 200, {"success": True, "errors": [], "data": data}

    def _data(self, method: str, path: str, body: Any) -> Any:
        address, _, query = path.partition("?")
        if (method, address) == ("POST", f"{_ROOT}/feature-flags"):
            return self._create(body)
        if (method, address) == ("GET", f"{_ROOT}/audit-logs"):
            asked = dict(pair.split("=") for pair in query.split("&"))
            self._require(asked.get("refType") == "FeatureFlag", "refType")
            entries = [entry for entry in self.log if entry["refId"] == asked["refId"]]
            begin = int(asked["pageIndex"]) * int(asked["pageSize"])
            return {"totalCount": len(entries), "items": entries[begin : begin + int(asked["pageSize"])]}
        match = re.fullmatch(rf"{_ROOT}/feature-flags/([\w.-]+)(/targeting|/variations|/archive)?", address)
        self._require(match is not None, f"{method} {path} is not published")
        assert match is not None
        key, what = match.groups()
        if key not in self.flags:
            raise _RefusedError(404, "ResourceNotFound")
        flag = self.flags[key]
        if (method, what) == ("GET", None):
            return copy.deepcopy(flag)
        self._require(method == "PUT" and what in {"/targeting", "/variations"}, f"{method} {what}")
        self._require(set(body) == {"revision", what[1:], "comment"}, f"the body has {sorted(body)}")
        if body["revision"] != flag["revision"]:
            raise _RefusedError(409, "Conflict")
        changed = copy.deepcopy(flag)
        changed |= self._targeting(body, flag) if what == "/targeting" else self._variations(body, flag)
        return self.change(changed)

    def change(self, changed: dict[str, Any]) -> str:
        """Put a flag into force as somebody changed it."""
        before = self.flags.get(changed["key"])
        changed["revision"] = str(uuid.uuid4())
        self.flags[changed["key"]] = changed
        entry = {
            "id": str(uuid.uuid4()),
            "refId": changed["id"],
            "refType": "FeatureFlag",
            "operation": "Update" if before else "Create",
            "dataChange": {"previous": json.dumps(before) if before else "", "current": json.dumps(changed)},
            "createdAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "creatorName": "ada",
        }
        self.log.insert(0, entry)
        return str(changed["revision"])

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        created = dict(body)
        enabled, ids = created.pop("enabledVariationId"), {variation["id"] for variation in created["variations"]}
        self._require({enabled, created["disabledVariationId"]} <= ids, "a variation's id")
        self._require(created["variationType"] in {"boolean", "string", "number", "json"}, "variationType")
        self._require_variations(created["variations"])
        if created["key"] in self.flags:
            raise _RefusedError(422, "KeyHasBeenUsed")
        served = [{"id": enabled, "rollout": [0, 1], "exptRollout": 1}]
        created |= {"id": str(uuid.uuid4()), "envId": ENVIRONMENT, "isArchived": False, "exptIncludeAllTargets": True}
        created |= {"targetUsers": [], "rules": []}
        created["fallthrough"] = {"dispatchKey": None, "includedInExpt": True, "variations": served}
        self.change(created)
        return created

    def _targeting(self, body: dict[str, Any], flag: dict[str, Any]) -> dict[str, Any]:
        targeting = body["targeting"]
        self._require(set(targeting) == _TARGETING, f"the targeting has {sorted(targeting)}")
        ids = {variation["id"] for variation in flag["variations"]}
        rule_ids = [rule["id"] for rule in targeting["rules"]]
        self._require(len(set(rule_ids)) == len(rule_ids) and all(map(uuid.UUID, rule_ids)), "a rule's id")
        for rule in targeting["rules"]:
            self._require(set(rule) == _RULE and rule["conditions"] != [], f"a rule has {sorted(rule)}")
            for condition in rule["conditions"]:
                self._require(
                    set(condition) == {"id", "property", "op", "value"}, f"a condition has {sorted(condition)}"
                )
                self._require(isinstance(condition["value"], str), "a condition's value")
            ends = 0.0
            for served in rule["variations"]:
                self._require(served["id"] in ids and served["rollout"][0] == ends, f"it serves {served}")
                ends = served["rollout"][1]
            self._require(ends == 1, "a rule does not serve all")
        return dict(targeting)

    def _variations(self, body: dict[str, Any], flag: dict[str, Any]) -> dict[str, Any]:
        self._require_variations(body["variations"])
        there = {variation["id"] for variation in flag["variations"]}
        self._require(there <= {variation["id"] for variation in body["variations"]}, "a variation was taken away")
        return {"variations": body["variations"]}

    def _require_variations(self, variations: list[dict[str, Any]]) -> None:
        for one in variations:
            self._require(
                set(one) == {"id", "name", "value"} and all(isinstance(text, str) and text for text in one.values()),
                f"{one}",
            )

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            self.faults.append(what)
            raise _RefusedError(400, what)


@contextmanager
def featbit_server() -> Iterator[FeatBitServer]:
    """One that runs; at its end, no client has done what the API does not have."""
    state = FeatBitServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _reply(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            content = self.rfile.read(length)
            if content and self.headers["content-type"] != "application/json":
                state.faults.append(f"content-type {self.headers['content-type']}")
            body = json.loads(content) if content else None
            status, answer = state.answer(self.command, self.path, self.headers.get("authorization"), body)
            if status == 0:  # no answer: the connection ends
                self.close_connection = True
                return
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _reply  # noqa: N815 - the server asks for these names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as above
            """Not into the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert state.faults == []
