"""What a broker of the laptop cluster is told: ``server.properties`` and the log's layout, as text.

Bytes in, bytes out: no process and no file. The message size is left at Kafka's
default of 1 MB, since our topics have to fit such brokers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ADMIN = "admin"
NODE_NAME = "CN=kafka"  # in every node's certificate; the controllers know each other by it


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where one node listens. ``prefix`` is put before its command (``ip netns exec NAME``)."""

    host: str
    client_port: int
    controller_port: int
    prefix: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"{self.host}:{self.client_port}"


def server_properties(
    node: int,
    places: Mapping[int, NodePlace],
    data: Path,
    *,
    tls: Path | None,
    admin_password: str | None,
    overrides: Mapping[str, str],
) -> str:
    """Configuration of node ``node``; ``tls`` is the folder of the certificates, None without security."""
    place = places[node]
    copies = 3 if len(places) >= 3 else 1
    in_sync = 2 if len(places) >= 3 else 1
    values: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": node,
        "controller.quorum.voters": ",".join(f"{n}@{p.host}:{p.controller_port}" for n, p in sorted(places.items())),
        "listeners": f"CLIENT://{place.host}:{place.client_port},CONTROLLER://{place.host}:{place.controller_port}",
        "advertised.listeners": f"CLIENT://{place.address}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "num.partitions": 1,
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": 6,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 3,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "auto.create.topics.enable": "false",
        "unclean.leader.election.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # a dead broker is fenced after this; 9 s by default, and then its partitions pause as long
        "broker.session.timeout.ms": 6000,
        "broker.heartbeat.interval.ms": 1000,
        # 30 s by default: a broker that was cut off waits so long for the answer to its last fetch, and so long
        # acknowledgements of all partitions wait for it while it counts as in sync (docs/design/0004-kafka.md)
        "replica.socket.timeout.ms": 5000,
        "replica.lag.time.max.ms": 10000,
        "num.network.threads": 2,
        "num.io.threads": 2,
        "log.cleaner.dedupe.buffer.size": 4_000_000,
    }
    if tls is not None:
        values |= _security(node, tls, admin_password or "")
    values |= overrides
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _security(node: int, tls: Path, admin_password: str) -> dict[str, object]:
    """SCRAM-SHA-512 over TLS for clients and brokers, mutual TLS between controllers, and nothing without an ACL."""
    login = "org.apache.kafka.common.security.scram.ScramLoginModule"
    return {
        "listener.security.protocol.map": "CLIENT:SASL_SSL,CONTROLLER:SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": (
            f'{login} required username="{ADMIN}" password="{admin_password}";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": tls / f"node-{node}.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": tls / "ca.pem",
        "ssl.client.auth": "none",
        "listener.name.controller.ssl.client.auth": "required",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN};User:{NODE_NAME}",
        "allow.everyone.if.no.acl.found": "false",
    }


def log_properties(log: Path) -> str:
    """Log4j 2: one file that rolls at 10 MB, warnings and what the server says of its own state."""
    values = {
        "status": "error",
        "appender.file.type": "RollingFile",
        "appender.file.name": "file",
        "appender.file.fileName": log,
        "appender.file.filePattern": f"{log}.%i",
        "appender.file.layout.type": "PatternLayout",
        "appender.file.layout.pattern": "%d{ISO8601} %p %c{1} %m%n",
        "appender.file.policies.type": "Policies",
        "appender.file.policies.size.type": "SizeBasedTriggeringPolicy",
        "appender.file.policies.size.size": "10MB",
        "appender.file.strategy.type": "DefaultRolloverStrategy",
        "appender.file.strategy.max": 2,
        "rootLogger.level": "info",
        "rootLogger.appenderRef.file.ref": "file",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())
