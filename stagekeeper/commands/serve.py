"""`stagekeeper serve`: the HTTP service."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import click
import uvicorn

from producers.errors import SettingsError, UsageError
from producers.web_guard import LOOPBACK
from stagekeeper.api.http_connections import guarded_connections, most_connections
from stagekeeper.api.open_service import open_service
from stagekeeper.commands.options import json_option, print_json
from stagekeeper.settings import Settings
from streams.shutdown import end_process

_FILE = click.Path(dir_okay=False, path_type=Path)
_LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KEEP_ALIVE_S = 30


@click.command("serve")
@click.option("--host", default=LOOPBACK, show_default=True, help="Interface to serve on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8600, show_default=True, help="Port; 0 is a free one.")
@click.option("--source", default="/stagekeeper/service", show_default=True, help="Who records, as a URI reference.")
@click.option("--behind-proxy", is_flag=True, help="Serve other machines without TLS: something before it has it.")
@click.option("--ready-file", type=_FILE, help="Write the address here once it serves.")
@json_option
def command(host: str, port: int, *, source: str, behind_proxy: bool, ready_file: Path | None, as_json: bool) -> None:
    """Decide, review, report and ask the gate over HTTP, for routers in any language.

    Everything but /livez and /readyz takes a token of `stagekeeper token new`. Records go to disk first, and to the
    broker where one is configured. Runs until SIGTERM or Ctrl-C.

    \b
    Exit codes: 0 stopped · 1 it cannot run · 2 usage, or a file that is missing or wrong.

    \b
    Examples:
      stagekeeper serve
      stagekeeper serve --port 0 --ready-file service.ready
      stagekeeper serve --host 0.0.0.0 --behind-proxy
    """
    settings = Settings.load()
    tls = _tls(settings)
    if not _is_loopback(host) and not tls and not behind_proxy:
        raise UsageError(
            f"tokens would cross the network to {host} in the clear. Set STAGEKEEPER_SERVICE_TLS_CERTIFICATE and "
            "STAGEKEEPER_SERVICE_TLS_KEY, or say --behind-proxy where something before it speaks TLS."
        )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=_LOG_LINE)
    with open_service(settings, source=source) as app, _listen(host, port) as listening:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # the record is the audit; a path may hold what a caller should not have put there
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            limit_concurrency=most_connections(),
            http=guarded_connections(),
            ws="none",
            timeout_graceful_shutdown=5,
            **tls,
        )
        address = f"http{'s' if tls else ''}://{_in_url(host)}:{listening.getsockname()[1]}"
        print_json({"address": address}) if as_json else click.echo(f"serves {address}", err=True)
        if ready_file is not None:
            ready_file.write_text(f"{address}\n", encoding="utf-8")
        for number in (signal.SIGINT, signal.SIGTERM):
            # The server heeds them, and raises them again once it has ended, while there is still something to do.
            signal.signal(number, lambda *_: None)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
    end_process()  # all is closed; taking the libraries apart would only take seconds


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1_024)
    except OSError as error:
        raise UsageError(
            f"nothing can be served at {host}:{port}: {error.strerror}. Choose another --port or --host."
        ) from error


def _tls(settings: Settings) -> dict[str, Any]:
    certificate, key = settings.service_tls_certificate, settings.service_tls_key
    client_ca = settings.service_tls_client_ca
    if (certificate is None) is not (key is None) or (client_ca is not None and certificate is None):
        raise SettingsError(
            "TLS takes STAGEKEEPER_SERVICE_TLS_CERTIFICATE and STAGEKEEPER_SERVICE_TLS_KEY, "
            "and STAGEKEEPER_SERVICE_TLS_CLIENT_CA only besides them."
        )
    if certificate is None or key is None:
        return {}
    for path in filter(None, (certificate, key, client_ca)):
        if not path.is_file():
            raise SettingsError(f"{path}, which TLS is set to use, is no file.")
    files = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    return files if client_ca is None else {**files, "ssl_ca_certs": str(client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
