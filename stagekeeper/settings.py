"""Settings, from the environment (`STAGEKEEPER_*`) or from the embedded stack that is running in this folder."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from producers.delivery.kafka_config import KafkaSecurity, Mechanism, Protocol
from producers.errors import SettingsError

RUNNING_FILE = "running.json"
RENAMED_VARIABLES = {"STAGEKEEPER_UPKEEP_EVERY_S": "STAGEKEEPER_MAINTENANCE_EVERY_S"}


class Settings(BaseSettings):
    """Where things are. Every field is an environment variable with the prefix `STAGEKEEPER_`."""

    model_config = SettingsConfigDict(env_prefix="STAGEKEEPER_", frozen=True, extra="ignore")

    home: Path = Path(".stagekeeper")
    """Folder for everything that the embedded stack keeps."""
    kafka_bootstrap_servers: str | None = None
    """Kafka brokers as `host:port,...`; unset means the embedded broker that `stagekeeper up` starts."""
    kafka_security_protocol: Protocol = "PLAINTEXT"
    """How clients speak to the brokers: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`."""
    kafka_sasl_mechanism: Mechanism | None = None
    """`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`."""
    kafka_sasl_username: str | None = None
    """The principal."""
    kafka_sasl_password: SecretStr | None = None
    """Its password; never printed."""
    kafka_ssl_ca_location: Path | None = None
    """Certificates (PEM) of the authorities that the brokers' are checked against; unset means the system's."""
    kafka_ssl_certificate_location: Path | None = None
    """This client's certificate (PEM), where the brokers ask for one."""
    kafka_ssl_key_location: Path | None = None
    """The certificate's private key (PEM)."""
    kafka_ssl_key_password: SecretStr | None = None
    """Password of the private key; never printed."""
    lake_root: str | None = Field(default=None, pattern=r"\S")
    """Root of the Delta tables; unset means `<home>/lake`."""
    gate_file: Path | None = None
    """The gate file (YAML); unset means `gates.yaml` in the working folder, if there is one."""
    flag_file: Path | None = None
    """The flag file (flagd JSON); unset means `flags.json` in the working folder."""
    stage_store: str | None = Field(default=None, pattern=r"\S")
    """Where stages are changed: `unleash:URL?project=P&environment=E`, `featbit:URL?environment=ID`, to read only
    `openfeature:MODULE:FUNCTION`; unset means the flag file."""
    stage_store_token: SecretStr | None = None
    """Token of that service's management API; never printed."""
    flag_webhook_secret: SecretStr | None = None
    """Unleash's whole `Authorization`, or FeatBit's secret, by which its webhooks are known; never printed."""
    flag_webhook_own_user: str | None = None
    """The user of that token there: what he changes is on record already."""
    enact: bool = False
    """Whether a worker carries out in the flag file, or the service, what the gate file lets it."""
    effect_deadline_s: float = Field(default=10.0, gt=0)
    """How long, in seconds, a router may decide by the old stage after a change before it is named."""
    webhooks_file: Path | None = None
    """The webhooks file (YAML): who is told of changes in the lives of recommendations; unset means nobody."""
    metrics_cells: int = Field(default=500, ge=0, le=10_000)
    """Of how many cells a worker has metrics of their own at most; what calls for somebody comes first."""
    authorization_file: Path | None = None
    """The authorization file (YAML); unset means `authorization.yaml` in the working folder."""
    receipt_key: SecretStr | None = None
    """Key that signs receipts and protects the rows of the review store; when set, events with unsigned or forged
    receipts are rejected, and so are rows that were written without it."""
    audit_key_file: Path | None = None
    """Key that signs checkpoints of the transparency logs (`stagekeeper audit keygen`); unset leaves them unsigned."""
    seal_every_s: float = Field(default=60.0, ge=0)
    """Seconds between two seals of the transparency logs in a worker; 0: only by `stagekeeper audit seal`."""
    reviewers_file: Path | None = None
    """The persons who may approve (YAML); unset means `reviewers.yaml` in the working folder, if there is one."""
    page_roles_claim: str = "roles"
    """The claim of the identity provider that lists what a person may do at the page: `reviewer`, `operator`."""
    reviewer_token: SecretStr | None = None
    """Token of the person who approves or rejects; never printed."""
    review_database: SecretStr | None = None
    """URL of the PostgreSQL database in which actions wait for a person, `postgresql://...`; unset means the file
    `reviews.db` in the home folder. Never printed."""
    tokens_file: Path | None = None
    """Tokens of the service (YAML), which `stagekeeper token` writes; unset means `tokens.yaml` in the home folder."""
    permit_s: float = Field(default=10.0, ge=1, le=300)
    """How long, in seconds, a permit of the service lets its action begin, and a retry finds the same decision."""
    service_tls_certificate: Path | None = None
    """Certificate (PEM) of the service, with its chain; with it the service speaks TLS alone."""
    service_tls_key: Path | None = None
    """The certificate's private key (PEM)."""
    service_tls_client_ca: Path | None = None
    """Authorities (PEM) of which every client must show a certificate, besides its token."""
    freshness_s: float = Field(default=900.0, gt=0)
    """A verdict older than this many seconds does not open a gate."""
    commit_every_s: float = Field(default=1.0, ge=0.1, le=10)
    """Seconds between two commits of a worker to a table; a large batch, and one after many failures, goes sooner."""
    maintenance_every_s: float = Field(default=3_600.0, ge=0)
    """Seconds between two rounds of roll-up, retention and vacuum in a worker; 0: only by `stagekeeper maintenance`."""
    rollup_after_days: float = Field(default=2.0, ge=0)
    """Age from which minutes of `signals` are rolled up to hours; 0 never does."""
    keep_events_days: float = Field(default=400.0, ge=0)
    """How long events are kept; 0 for ever."""
    keep_rejects_days: float = Field(default=90.0, ge=0)
    """How long rejects are kept; 0 for ever."""
    keep_quality_days: float = Field(default=400.0, ge=0)
    """How long validation runs are kept; 0 for ever."""
    keep_signals_days: float = Field(default=0.0, ge=0)
    """How long the counts of epochs that are over are kept; 0 for ever."""
    keep_verdicts_days: float = Field(default=0.0, ge=0)
    """How long repetitions of a verdict are kept in the ledger; 0 for ever."""
    replay_days: float = Field(default=90.0, ge=1, le=90)
    """How long a verdict can be reached again bit for bit."""
    vacuum_grace_hours: float = Field(default=0.5, ge=0.1)
    """How long files stay that only an earlier version consists of."""

    @classmethod
    def load(cls) -> Self:
        """Read the environment, then fill what is unset from the embedded stack in `home`; raises `SettingsError`."""
        settings = cls.from_environment()
        running = settings.running()
        unset = {name: value for name, value in running.items() if name not in settings.model_fields_set}
        return settings.model_copy(update=unset)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment alone, for the process that is about to run under `home`; raises `SettingsError`."""
        for old_name in RENAMED_VARIABLES.keys() & {name.upper() for name in os.environ}:
            raise SettingsError(f"{old_name} is called {RENAMED_VARIABLES[old_name]} now. Rename the variable.")
        try:
            return cls()
        except ValidationError as error:
            faults = "; ".join(
                f"STAGEKEEPER_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()
            )
            raise SettingsError(f"{faults}. Mend or unset the variable.") from error

    @property
    def as_environment(self) -> dict[str, str]:
        """The settings as variables for a child process, secrets in the clear: for its environment, nothing else."""
        # A limit that nobody has set would narrow the gate file's in the child.
        left_out = {"reviewer_token", *({"freshness_s"} - self.model_fields_set)}
        values = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self.model_dump(exclude_none=True, exclude=left_out).items()
        }
        values["receipt_key"] = (self.signing_key or b"").decode()
        return {f"STAGEKEEPER_{name.upper()}": str(value) for name, value in values.items()}

    def running(self) -> dict[str, str | Path]:
        """Broker, lake root, gate and flag file of the embedded stack that runs under `home`; empty where none does."""
        path = self.home / RUNNING_FILE
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}. Delete it if nothing runs here.") from error
        return {
            "kafka_bootstrap_servers": str(content["kafka_bootstrap_servers"]),
            "lake_root": str(content["lake_root"]),
            **{name: Path(content[name]) for name in ("gate_file", "flag_file") if name in content},
        }

    @property
    def kafka_security(self) -> KafkaSecurity:
        """TLS and SASL for every Kafka client; raises `SettingsError` where the variables do not fit together."""
        return KafkaSecurity.from_settings(
            protocol=self.kafka_security_protocol,
            mechanism=self.kafka_sasl_mechanism,
            username=self.kafka_sasl_username,
            password=self.kafka_sasl_password,
            ca=self.kafka_ssl_ca_location,
            certificate=self.kafka_ssl_certificate_location,
            key=self.kafka_ssl_key_location,
            key_password=self.kafka_ssl_key_password,
        )

    def freshness_limit(self, gate_file_s: float | None) -> timedelta:
        """How old evidence may be: as the gate file says (None where it cannot be read), narrowed by the setting."""
        # A gate file may state more seconds than a duration can hold.
        limits_s = [timedelta.max // timedelta(seconds=1)] + ([] if gate_file_s is None else [gate_file_s])
        if gate_file_s is None or "freshness_s" in self.model_fields_set:
            limits_s.append(self.freshness_s)
        return timedelta(seconds=min(limits_s))

    @property
    def lake(self) -> str:
        """The lake root in force."""
        return self.lake_root if self.lake_root is not None else str(self.home / "lake")

    @property
    def gates(self) -> Path:
        """The gate file in force, whether or not it exists."""
        return self.gate_file if self.gate_file is not None else Path("gates.yaml")

    @property
    def flags(self) -> Path:
        """The flag file in force, whether or not it exists."""
        return self.flag_file if self.flag_file is not None else Path("flags.json")

    @property
    def authorization(self) -> Path:
        """The authorization file in force, whether or not it exists."""
        return self.authorization_file if self.authorization_file is not None else Path("authorization.yaml")

    @property
    def reviewers(self) -> Path:
        """The reviewers file in force, whether or not it exists."""
        return self.reviewers_file if self.reviewers_file is not None else Path("reviewers.yaml")

    @property
    def review_store(self) -> Path:
        """The file in which actions wait for a person."""
        return self.home / "reviews.db"

    @property
    def tokens(self) -> Path:
        """The tokens file in force, whether or not it exists."""
        return self.tokens_file if self.tokens_file is not None else self.home / "tokens.yaml"

    @property
    def service_log(self) -> Path:
        """The file in which the service keeps its decisions, and those of its records that wait for the broker."""
        return self.home / "service.db"

    @property
    def outbox(self) -> Path:
        """The file in which records wait for the broker."""
        return self.home / "outbox.db"

    @property
    def signing_key(self) -> bytes | None:
        """The receipt key as bytes; an empty one counts as unset."""
        secret = self.receipt_key.get_secret_value() if self.receipt_key is not None else ""
        return secret.encode() or None

    def require_kafka(self) -> str:
        """The bootstrap servers; raises `SettingsError` where neither the variable nor an embedded broker names any."""
        if self.kafka_bootstrap_servers is None:
            raise SettingsError(
                "no Kafka broker is known. Start the embedded one with `stagekeeper up`, "
                "or set STAGEKEEPER_KAFKA_BOOTSTRAP_SERVERS=host:port."
            )
        return self.kafka_bootstrap_servers
