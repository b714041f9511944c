"""A receiver of webhooks: a real HTTP server of this process, which answers as it is told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from standardwebhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the specification's own example


class Receiver:
    """What came, in order; `answer` says what to answer, by the number of the request from 1: a status and headers."""

    def __init__(self, answer: Callable[[int], tuple[int, dict[str, str]]] = lambda _: (204, {})) -> None:
        self.answer = answer
        self.taken: list[dict[str, Any]] = []  # bodies that were answered with 2xx
        self.ids: list[str] = []  # of those
        self.headers: list[dict[str, str]] = []  # of every request
        receiver, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                    number = len(receiver.headers)
                status, headers = receiver.answer(number)
                if 200 <= status < 300:
                    receiver.bodies.append(body)
                    receiver.taken.append(json.loads(body))
                    receiver.ids.append(self.headers["webhook-id"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - the base class's name

            def log_message(self, *_: object) -> None:
                pass

        self.bodies: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    @property
    def lives(self) -> list[str]:
        """What it was told of, in order."""
        return [body["type"].rpartition(".")[2] for body in self.taken]

    def verified(self) -> list[Any]:
        """Every body that it took, by the published library."""
        return [
            Webhook(SECRET).verify(body, dict(headers)) for body, headers in zip(self.bodies, self.headers, strict=True)
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
