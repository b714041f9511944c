"""Create the Faust app of a worker, and a channel that keeps its items through a rebalance."""

from __future__ import annotations

import ssl
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import faust
from faust.tables import TableManager

from producers.web_guard import may_ask
from streams.broker import EMBEDDED_PREFIX, KafkaSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Collection

View: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
"""A page of the web server, of Faust's own types."""


class KeptChannel(faust.Channel):  # type: ignore[misc]
    """An in-memory channel that keeps its items when Faust's own consumer is rebalanced; a plain one drops them."""

    @property
    def queue(self) -> Any:  # noqa: ANN401  (Faust's own type)
        """The queue behind the channel."""
        if self._queue is None:
            self._queue: Any = self.app.FlowControlQueue(maxsize=self.maxsize, clear_on_resume=False)
        return self._queue


class NoTables(TableManager):  # type: ignore[misc]
    """A manager without tables: a plain one waits a second for tables to be declared, at every start."""

    async def on_start(self) -> None:
        """Begin at once, since this app declares none."""
        await self._update_channels()
        await self.recovery.start()


def create_faust_app(bootstrap_servers: str, log_id: str, web_address: tuple[str, int], security: KafkaSettings) -> Any:  # noqa: ANN401
    """Create the Faust app of one worker, with its web server on a host and port."""
    # On the embedded broker a group join takes half the session timeout, in whole seconds.
    embedded = log_id.startswith(EMBEDDED_PREFIX)
    session_s, heartbeat_s, rebalance_s = (2.0, 0.6, 12.0) if embedded else (45.0, 3.0, 60.0)
    return faust.App(
        # A group of its own for each process: everybody keeps all recommendations, and nobody waits for another's join.
        f"stagekeeper-control-{uuid.uuid4()}",
        broker=[f"kafka://{server.strip()}" for server in bootstrap_servers.split(",")],
        broker_credentials=_credentials(security),
        store="memory://",
        TableManager=NoTables,
        datadir=str(Path(tempfile.gettempdir(), "stagekeeper-control")),  # it keeps nothing there, and yet makes it
        autodiscover=False,
        topic_allow_declare=False,  # topics are created with their settings before anything runs
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        consumer_auto_offset_reset="latest",  # what came before is in the ledger
        broker_session_timeout=session_s,
        broker_heartbeat_interval=heartbeat_s,
        broker_rebalance_timeout=rebalance_s,
        producer_request_timeout=15.0,
        web_enabled=True,
        web_bind=web_address[0],
        web_host=web_address[0],
        web_port=web_address[1],
        web_tables_enabled=False,
    )


def follow(app: Any, topic: str, take: Callable[[bytes | None], None]) -> None:  # noqa: ANN401
    """Have an agent hand over the value of every record that comes to a topic from now on."""
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}

    async def agent(stream: AsyncIterable[bytes | None]) -> None:
        async for value in stream:
            take(value)

    app.agent(app.topic(topic, **raw), name=topic)(agent)


def guarded(view: View, names: Collection[str]) -> View:
    """A view that answers only who asks for an address or name of this worker, and no page of another site."""

    async def answer(web: Any, request: Any) -> Any:  # noqa: ANN401  (Faust's own types)
        if not may_ask(request.headers.get("Host"), request.headers.get("Origin"), names):
            return web.json({"error": "Host or Origin names nobody here; see --web-name"}, status=403)
        return await view(web, request)

    answer.__name__ = view.__name__  # by which Faust names the page
    return answer


def _credentials(security: KafkaSettings) -> Any:  # noqa: ANN401  (Faust's own type)
    protocol = str(security.get("security.protocol", "PLAINTEXT"))
    context = None
    if protocol.endswith("SSL"):
        authorities = security.get("ssl.ca.location")
        context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
        if "ssl.certificate.location" in security:
            password = security.get("ssl.key.password")
            context.load_cert_chain(
                str(security["ssl.certificate.location"]),
                str(security["ssl.key.location"]) if "ssl.key.location" in security else None,
                None if password is None else str(password),
            )
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=str(security["sasl.username"]),
            password=str(security["sasl.password"]),
            mechanism=str(security["sasl.mechanism"]),
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
