"""A real Unleash server on a PostgreSQL cluster of its own; what npm installs is kept between runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from streams.ports import available_port

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = "8.2.0"
ADMIN_TOKEN: Final = "*:*.an-administrator-of-the-tests"  # noqa: S105 - of a server that lives for the tests
ROUTER_TOKEN: Final = "*:production.a-router-of-the-tests"  # noqa: S105 - as above

_PACKAGES: Final = (f"unleash-server@{VERSION}", "node@22")
_CACHE: Final = Path(
    os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "stagekeeper-tests", f"unleash-{VERSION}"
)
_MODULES: Final = _CACHE / "node_modules"
_POSTGRES: Final = ("listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "synchronous_commit=off")


@dataclass(frozen=True)
class UnleashServer:
    """A server that runs, with the flags of the tests in its project `default`."""

    url: str

    @property
    def admin(self) -> httpx.Client:
        """A person's own hands in the management API."""
        return httpx.Client(base_url=self.url, headers={"authorization": ADMIN_TOKEN})


@contextlib.contextmanager
def unleash_server() -> Iterator[UnleashServer]:
    """Start one, or skip with the name of what is missing."""
    programs = _postgres_programs()
    _install()
    with tempfile.TemporaryDirectory(prefix="unleash-", dir="/tmp") as name:
        folder = Path(name)
        with _postgres(programs, folder) as database_url, _unleash(folder, database_url) as url:
            yield UnleashServer(url)


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("no PostgreSQL here (`initdb`), so the real Unleash is not tested: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


def _install() -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm here, so the real Unleash is not tested: install Node.js with npm")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (_CACHE / "installed").exists():
            return
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(_CACHE), *_PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode:
            pytest.skip(
                f"npm cannot install {' '.join(_PACKAGES)}, so the real Unleash is not tested: {done.stderr[-300:]}"
            )
        (_CACHE / "installed").touch()


@contextlib.contextmanager
def _postgres(programs: Path, folder: Path) -> Iterator[str]:
    port, data = available_port(0), folder / "postgres"
    data.mkdir()
    user = None
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody here")
        shutil.chown(data, user)
        folder.chmod(0o755)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, user=user, timeout=60, cwd=data)

    run("initdb", "-D", str(data), "-A", "trust", "-U", "unleash", "--no-sync")
    settings = " ".join(f"-c {setting}" for setting in (*_POSTGRES, f"port={port}", f"unix_socket_directories={data}"))
    run("pg_ctl", "-D", str(data), "-w", "-o", settings, "-l", str(data / "log"), "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "unleash", "unleash")
        yield f"postgres://unleash@127.0.0.1:{port}/unleash"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")


@contextlib.contextmanager
def _unleash(folder: Path, database_url: str) -> Iterator[str]:
    port = available_port(0)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "DATABASE_SSL": "false",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "INIT_ADMIN_API_TOKENS": ADMIN_TOKEN,
        "INIT_BACKEND_API_TOKENS": ROUTER_TOKEN,
        "CHECK_VERSION": "false",
        "SEND_TELEMETRY": "false",
        "LOG_LEVEL": "warn",
        "UNLEASH_ALLOW_PRIVATE_URL_IN_INTEGRATION": "true",
        "NODE_ENV": "production",
    }
    program = [str(_MODULES / "node" / "bin" / "node"), str(_MODULES / "unleash-server" / "dist" / "server.js")]
    with (folder / "unleash.log").open("wb") as log:
        server = subprocess.Popen(program, env=environment, stdout=log, stderr=log, cwd=_CACHE)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(server, url, folder / "unleash.log")
        yield url
        if server.poll() is not None:
            words = (folder / "unleash.log").read_text(errors="replace")[-2_000:]
            pytest.fail(f"Unleash has ended by itself, with {server.returncode}: {words}")
    finally:
        server.send_signal(signal.SIGKILL)  # its database goes with it
        server.wait()


def _await_health(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until, pause = time.monotonic() + 240, threading.Event()
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return
        pause.wait(0.1)
    pytest.fail(f"Unleash does not run: {log.read_text(errors='replace')[-2_000:]}")
