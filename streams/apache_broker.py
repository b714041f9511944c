"""Apache Kafka on this machine: one node without ZooKeeper (KRaft), run by `java` from its jars. Its log stays."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import KafkaException

from streams.broker import BrokerError, admin
from streams.children import Child

if TYPE_CHECKING:
    from collections.abc import Sequence

RELEASE: Final = "4.4.0"
READY_S: Final = 60.0
_STOP_S: Final = 20.0
_FETCH_S: Final = 500.0
_POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stagekeeper</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{RELEASE}</version>
    </dependency>
  </dependencies>
</project>
"""


def missing() -> str | None:
    """What this machine lacks for it; None where it has all."""
    if shutil.which("java") is None:
        return "Apache Kafka needs java (17 or newer) on PATH"
    if _distribution() is None and shutil.which("mvn") is None:
        return "Apache Kafka needs mvn on PATH, which fetches it, or KAFKA_HOME set to the folder of a release"
    return None


@dataclass
class ApacheBroker:
    """A running node; its log survives `stop`, and comes back with `restart` or with another `start` at its home."""

    address: str  # `host:port` for clients
    cluster_id: str  # of its log, so that it stays
    home: Path
    child: Child
    _classpath: str

    @classmethod
    def start(cls, home: Path, *, port: int, controller_port: int, jars: Path, extra: str = "") -> Self:
        """Start a node on 127.0.0.1 with its log in the folder `home`, and wait until it answers.

        `jars` is the folder into which Maven fetches it once, unless `KAFKA_HOME` names a release; `extra` are further
        lines of its properties.

        Raises:
            BrokerError: Java or Maven is missing or fails, or the node ended or did not answer in a minute.
        """
        if (reason := missing()) is not None:
            raise BrokerError(f"{reason}. Set STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=host:port to use a cluster instead.")
        home.mkdir(parents=True, exist_ok=True)
        classpath = _fetched(jars)
        (home / "server.properties").write_text(_properties(home, port, controller_port) + extra)
        cluster_id = _formatted(home, classpath)
        broker = cls(f"127.0.0.1:{port}", cluster_id, home, _run(home, classpath), classpath)
        broker.await_ready()
        return broker

    @property
    def pid(self) -> int:
        """Id of its process."""
        return self.child.process.pid

    def await_ready(self) -> None:
        """Return once the node answers a client; one that does not is stopped. Raises `BrokerError` as `start` does."""
        try:
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it in order, or by force after 20 s; its log stays. Does nothing when it has stopped already."""
        self.child.stop(_STOP_S)

    def restart(self) -> None:
        """Start again on the same log; raises `BrokerError` as `start` does."""
        self.child = _run(self.home, self._classpath)
        self.await_ready()

    def _await_answer(self) -> None:
        deadline = time.monotonic() + READY_S
        client = admin(self.address)
        while time.monotonic() < deadline:
            if not self.child.running:
                raise BrokerError(self.child.reason())
            try:
                if client.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                continue  # not listening yet; the loop ends on its process or on the deadline
        raise BrokerError(f"Apache Kafka did not answer in {READY_S:.0f} s; see {self.child.log}")


def _distribution() -> Path | None:
    home = os.environ.get("KAFKA_HOME")
    return Path(home) / "libs" if home else None


def _fetched(jars: Path) -> str:
    """The classpath of the release, fetched where it is not there yet."""
    distribution = _distribution()
    if distribution is not None:
        if not distribution.is_dir():
            raise BrokerError(f"there is no folder {distribution}. Set KAFKA_HOME to the folder of a Kafka release.")
        return f"{distribution}/*"
    jars.parent.mkdir(parents=True, exist_ok=True)
    with jars.with_name(f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of processes that want it at once one fetches, and the others wait
        stamp = jars / "pom.xml"
        if not stamp.exists() or stamp.read_text() != _POM:
            shutil.rmtree(jars, ignore_errors=True)
            jars.mkdir()
            pom = jars / "fetching.xml"
            pom.write_text(_POM)
            maven = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
            _done(maven, _FETCH_S)
            pom.rename(stamp)
    return f"{jars}/*"


def _formatted(home: Path, classpath: str) -> str:
    """The cluster id of the log in `home`, which is made where there is none."""
    meta = home / "log" / "meta.properties"
    if meta.exists():
        found = re.search(r"^cluster\.id=(\S+)$", meta.read_text(), re.MULTILINE)
        if found is None:
            raise BrokerError(f"{meta} names no cluster. Delete {home} to begin a new log; the lake has to go with it.")
        return found[1]
    cluster_id = uuid.uuid4().hex[:22]
    tool = ["java", "-cp", classpath, "kafka.tools.StorageTool", "format", "-t", cluster_id]
    _done([*tool, "-c", str(home / "server.properties")], READY_S)
    return cluster_id


def _done(command: Sequence[str], timeout_s: float) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()[-500:]
        raise BrokerError(f"`{command[0]}` failed with exit status {error.returncode}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"`{command[0]}` did not end in {timeout_s:.0f} s; is its network there?") from error


def _run(home: Path, classpath: str) -> Child:
    command = ["java", "-Xmx768m", "-XX:+UseSerialGC", "-cp", classpath, "kafka.Kafka"]
    return Child.start("Apache Kafka", [*command, str(home / "server.properties")], log=home / "server.log")


def _properties(home: Path, port: int, controller_port: int) -> str:
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={home}/log
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""
