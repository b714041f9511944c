"""Apache Kafka for tests: one KRaft node from Maven's jars, started with plain `java -cp`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

POM = Path(__file__).parent / "kafka" / "pom.xml"
JARS = Path(__file__).parents[1] / ".stagekeeper" / "test-kafka-jars"
READY_S = 60.0


def missing() -> str | None:
    """What this machine lacks for it; None where it has all."""
    lacking = [program for program in ("java", "mvn") if shutil.which(program) is None]
    return f"Apache Kafka needs {' and '.join(lacking)} on PATH" if lacking else None


def _jars() -> str:
    """Classpath of the release that the pom names, fetched once."""
    stamp = JARS / "pom.xml"
    if not stamp.exists() or stamp.read_bytes() != POM.read_bytes():
        shutil.rmtree(JARS, ignore_errors=True)
        fetch = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
        subprocess.run(fetch, check=True, timeout=500)
        stamp.write_bytes(POM.read_bytes())
    return f"{JARS}/*"


@dataclass
class ApacheKafka:
    """A running node; its log survives `stop` and comes back with `restart`."""

    address: str
    cluster_id: str
    home: Path
    properties: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, home: Path, *, port: int, controller_port: int, extra: str = "") -> Self:
        home.mkdir(parents=True, exist_ok=True)
        cluster_id = uuid.uuid4().hex[:22]
        properties = home / "server.properties"
        properties.write_text(
            f"""
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
{extra}
"""
        )
        storage = ["java", "-cp", _jars(), "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
        subprocess.run(storage, check=True, capture_output=True, timeout=60)
        kafka = cls(f"127.0.0.1:{port}", cluster_id, home, properties, cls._run(properties, home))
        kafka.await_ready()
        return kafka

    @staticmethod
    def _run(properties: Path, home: Path) -> subprocess.Popen[bytes]:
        command = ["java", "-Xmx768m", "-XX:+UseSerialGC", "-cp", _jars(), "kafka.Kafka", str(properties)]
        with (home / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def await_ready(self) -> None:
        """Wait until the node answers a client."""
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        until = time.monotonic() + READY_S
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"Apache Kafka ended: {(self.home / 'server.log').read_text()[-2000:]}")
            try:
                if client.list_topics(timeout=1).brokers:
                    return
            except KafkaException:
                if time.monotonic() > until:
                    raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Stop the node, cleanly if it goes within 20 s."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def restart(self) -> None:
        """Start again on the same log."""
        self.process = self._run(self.properties, self.home)
        self.await_ready()
