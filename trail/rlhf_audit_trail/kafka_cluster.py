"""Real Kafka on one machine, without Docker: one combined node or three, for tests and for trying the cluster mode.

::

    DIR/cluster.json            cluster id, places of the nodes, whether it is secure
    DIR/node-<n>/               server.properties, data/, broker.log, node.out, node.pid
    DIR/tls/, DIR/passwords/    certificates and one file for each user, only when secure

1. A folder without ``cluster.json`` gets ports, certificates, formatted storage.
2. The nodes start, tied to this process (they end with it, however it dies) or
   on their own (found again through pid files).
3. Ready means: every node's port answers, one controller, every replica of
   every partition in sync. Metadata alone still shows a dead broker's replicas.

Three nodes hold every partition three times and acknowledge with two
(RF 3, min.isr 2). Not for production: loopback only, and one disk.
"""

from __future__ import annotations

import json
import random
import secrets
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import make_folders_durably, write_file_durably
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import admin_client, failed_question
from rlhf_audit_trail.kafka_certificates import CA_FILE, make_certificates
from rlhf_audit_trail.kafka_config import ADMIN, NodePlace, log_properties, server_properties
from rlhf_audit_trail.kafka_jars import jars, java
from rlhf_audit_trail.kafka_processes import Node

HEAP = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC")
READY_TIMEOUT_S = 90.0  # a node killed a moment ago waits for its old registration to expire, on two busy cores
STOP_TIMEOUT_S = 15.0  # three nodes need up to 14 s to stop in order
_FORMAT_TIMEOUT_S = 120
_LOGIN_TIMEOUT_S = 30
_POLL_S = 0.1
_SCRAM_ROUNDS = 4096
# Below what systems give to outgoing connections, so that a client's connection never takes a node's port.
_PORTS = range(20_000, 32_000)


class KafkaCluster:
    """Brokers in one folder. As a context manager: up and ready inside the block, down after it."""

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 1,
        secure: bool = False,
        is_tied: bool = True,
        overrides: Mapping[str, str] | None = None,
        hosts: Sequence[tuple[str, tuple[str, ...]]] | None = None,
        heap: Sequence[str] = HEAP,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        """``hosts``: an address and a command prefix for each node, for nodes in network namespaces of their own.

        ``stop_timeout_s`` 0 kills at once, for data that nobody will miss.
        """
        if brokers not in (1, 3):
            raise ConfigError(f"a cluster here has 1 or 3 brokers, not {brokers}")
        self.directory = directory.absolute()
        self._brokers, self._secure = brokers, secure
        self._is_tied, self._overrides, self._heap = is_tied, dict(overrides or {}), tuple(heap)
        self._hosts = list(hosts or [("127.0.0.1", ())] * brokers)
        self._stop_timeout_s = stop_timeout_s
        self._places: dict[int, NodePlace] = {}
        self._nodes: dict[int, Node] = {}
        self._cluster_id = ""
        if self._path.exists():
            self._read()

    @classmethod
    def existing(cls, directory: Path) -> Self:
        """The cluster that was made in ``directory``. Raises CouldNotCheckError if there is none."""
        if not (directory / "cluster.json").exists():
            raise CouldNotCheckError(f"{directory}: no cluster here; `rlhf-audit kafka up --dir {directory}` makes one")
        return cls(directory, is_tied=False)

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def nodes(self) -> tuple[int, ...]:
        """Numbers of the nodes, from 1."""
        return tuple(sorted(self._places))

    @property
    def bootstrap(self) -> str:
        """``host:port`` of every broker, separated by commas."""
        return ",".join(self._places[node].address for node in self.nodes)

    @property
    def is_secure(self) -> bool:
        """Whether clients log in and need rights."""
        return self._secure

    def up(self) -> None:
        """Make what is missing, start all nodes, return when every one of them serves."""
        found_jars, found_java = jars(), java()
        if not self._places:
            self._lay_out()
        self._format(found_java, found_jars)
        for node in self.nodes:
            self.start(node)
        self.wait_ready()

    def down(self) -> None:
        """Stop all nodes: in order if there is time, by force after the bound."""
        for node in self._nodes.values():
            node.signal(signal.SIGTERM if self._stop_timeout_s else signal.SIGKILL)
        deadline = time.monotonic() + self._stop_timeout_s
        for node in self._nodes.values():
            if not node.wait(max(deadline - time.monotonic(), 0.0) if self._stop_timeout_s else 10.0):
                node.signal(signal.SIGKILL)
                node.wait(10.0)

    def start(self, node: int) -> None:
        """Start one node; ``wait_ready`` says when it serves again."""
        folder = self._folder(node)
        command = (
            *self._places[node].prefix,
            java(),
            *self._heap,
            f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
            "-cp",
            f"{jars()}/*",
            "kafka.Kafka",
            str(folder / "server.properties"),
        )
        self._nodes[node].start(command, is_tied=self._is_tied)

    def stop(self, node: int, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop one node in order, by force after the bound."""
        self._nodes[node].signal(signal.SIGTERM)
        if not self._nodes[node].wait(timeout_s):
            self.kill(node)

    def kill(self, node: int) -> None:
        """``kill -9`` one node."""
        self._nodes[node].signal(signal.SIGKILL)
        self._nodes[node].wait(10.0)

    def signal(self, node: int, number: signal.Signals) -> None:
        """Send one node any signal (SIGSTOP, SIGCONT)."""
        self._nodes[node].signal(number)

    def pids(self) -> dict[int, int | None]:
        """Node -> its process, None if it does not run."""
        return {number: node.pid for number, node in sorted(self._nodes.items())}

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when every node serves and every replica is in sync. Raises CouldNotCheckError, saying what is not."""
        deadline = time.monotonic() + timeout_s
        while True:
            missing = self._unready()
            if missing is None:
                return
            for number, node in self._nodes.items():
                if not node.is_alive:
                    raise CouldNotCheckError(f"node {number} ended{node.last_words()}")
            if time.monotonic() > deadline:
                raise CouldNotCheckError(f"{self.directory}: not ready after {timeout_s:.0f} s: {missing}")
            time.sleep(_POLL_S)

    def status(self) -> dict[str, Any]:
        """What ``rlhf-audit kafka status`` shows."""
        return {
            "directory": str(self.directory),
            "brokers": self.bootstrap,
            "secure": self._secure,
            "nodes": self.pids(),
            "ready": all(node.is_alive for node in self._nodes.values()) and self._unready() is None,
        }

    def settings(self, topic_prefix: str = "", *, user: str = ADMIN) -> KafkaSettings:
        """Client settings for a user of this cluster."""
        if not self._secure:
            return KafkaSettings(self.bootstrap, topic_prefix)
        return KafkaSettings(
            self.bootstrap,
            topic_prefix,
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            username=user,
            password_file=self.password_file(user),
            ca_file=self._tls / CA_FILE,
        )

    def password_file(self, user: str) -> Path:
        """File of a user's password."""
        return self.directory / "passwords" / f"{user}.password"

    def create_user(self, user: str) -> KafkaSettings:
        """Make a SCRAM user without any right, known to every node; settings to log in as it."""
        from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

        password = self._new_password(user)
        client, _ = admin_client(self.settings())
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _SCRAM_ROUNDS)
        asked = client.alter_user_scram_credentials([UserScramCredentialUpsertion(user, how, password.encode("ascii"))])
        asked[user].result(timeout=30)
        for node in self.nodes:
            self._wait_for_login(user, node)
        return self.settings(user=user)

    def _wait_for_login(self, user: str, node: int) -> None:
        """A node learns of a new user a moment after the one that was told."""
        from confluent_kafka import KafkaException

        alone = replace(self.settings(user=user), brokers=self._places[node].address)
        deadline = time.monotonic() + _LOGIN_TIMEOUT_S
        while True:
            client, watch = admin_client(alone)
            try:
                client.list_topics(timeout=5)
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise failed_question(client, watch, f"node {node}: log in as {user}", error) from error
                time.sleep(_POLL_S)
            else:
                return

    # ------------------------------------------------------------ making it

    @property
    def _path(self) -> Path:
        return self.directory / "cluster.json"

    @property
    def _tls(self) -> Path:
        return self.directory / "tls"

    def _folder(self, node: int) -> Path:
        return self.directory / f"node-{node}"

    def _lay_out(self) -> None:
        make_folders_durably(RealDisk(), self.directory)
        ports = iter(_free_ports([host for host, prefix in self._hosts for _ in range(2)]))
        self._places = {
            node: NodePlace(host, next(ports), next(ports), prefix)
            for node, (host, prefix) in enumerate(self._hosts, start=1)
        }
        self._nodes = {node: Node(self._folder(node)) for node in self._places}
        self._cluster_id = new_cluster_id()
        if self._secure:
            hosts = {node: place.host for node, place in self._places.items()}
            make_certificates(self._tls, hosts, datetime.now(UTC))
            self._new_password(ADMIN)
        for node in self._places:
            folder = self._folder(node)
            make_folders_durably(RealDisk(), folder)
            properties = server_properties(
                node,
                self._places,
                folder / "data",
                tls=self._tls if self._secure else None,
                admin_password=self._password(ADMIN) if self._secure else None,
                overrides=self._overrides,
            )
            write_file_durably(RealDisk(), folder / "server.properties", properties.encode())
            log = log_properties(folder / "broker.log")
            write_file_durably(RealDisk(), folder / "log4j2.properties", log.encode())
        facts = {
            "cluster_id": self._cluster_id,
            "secure": self._secure,
            "places": {str(node): asdict(place) for node, place in self._places.items()},
        }
        write_file_durably(RealDisk(), self._path, json.dumps(facts, indent=1).encode(), mode=0o644)

    def _read(self) -> None:
        try:
            facts = json.loads(self._path.read_text(encoding="utf-8"))
            self._cluster_id, self._secure = str(facts["cluster_id"]), bool(facts["secure"])
            self._places = {
                int(node): NodePlace(**{**place, "prefix": tuple(place["prefix"])})
                for node, place in facts["places"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CouldNotCheckError(f"{self._path} does not describe a cluster: remove the folder") from error
        self._nodes = {node: Node(self._folder(node)) for node in self._places}

    def _format(self, java_command: str, jar_folder: Path) -> None:
        running = {}
        for node in self.nodes:
            folder = self._folder(node)
            if (folder / "data" / "meta.properties").exists():
                continue
            command = [
                *(java_command, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jar_folder}/*"),
                f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
                *("kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", f"{folder / 'server.properties'}"),
            ]
            if self._secure:
                command += ["--add-scram", f"SCRAM-SHA-512=[name={ADMIN},password={self._password(ADMIN)}]"]
            running[node] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603
        for node, process in running.items():
            said, _ = process.communicate(timeout=_FORMAT_TIMEOUT_S)
            if process.returncode != 0:
                last = said.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
                raise CouldNotCheckError(f"node {node}: its storage cannot be formatted; Kafka said: {last[0][:300]}")

    def _new_password(self, user: str) -> str:
        password = secrets.token_urlsafe(24)
        path = self.password_file(user)
        make_folders_durably(RealDisk(), path.parent)
        write_file_durably(RealDisk(), path, password.encode("ascii") + b"\n", mode=0o600)
        return password

    def _password(self, user: str) -> str:
        return self.password_file(user).read_text(encoding="ascii").strip()

    # ------------------------------------------------------------ looking at it

    def _unready(self) -> str | None:
        """What is missing, None if nothing is. Ports first: only they tell that a broker which was dead is back."""
        from confluent_kafka import KafkaException

        for node in self.nodes:
            if not self._answers(self._places[node]):
                return f"node {node} does not answer on {self._places[node].address}"
        client, watch = admin_client(self.settings())
        try:
            cluster = client.describe_cluster(request_timeout=5).result(timeout=6)
            found = {broker.id for broker in cluster.nodes}
            if cluster.controller is None or not set(self.nodes) <= found:
                return f"brokers registered: {sorted(found)}"
            metadata = client.list_topics(timeout=5)
        except (KafkaException, TimeoutError) as error:
            return str(failed_question(client, watch, "the brokers do not answer", error))
        for name, topic in metadata.topics.items():
            for number, partition in topic.partitions.items():
                if len(partition.isrs) < len(partition.replicas) or partition.leader < 0:
                    return f"{name}[{number}]: {len(partition.isrs)} of {len(partition.replicas)} replicas in sync"
        return None

    def _answers(self, place: NodePlace) -> bool:
        try:
            with socket.create_connection((place.host, place.client_port), timeout=1):
                return True
        except OSError:
            return False


def new_cluster_id() -> str:
    """A random id as Kafka writes them; never one that its own tool would take for a flag."""
    while True:
        found = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode("ascii")
        if not found.startswith("-"):
            return found


def _free_ports(hosts: Sequence[str]) -> list[int]:
    """A free port for each host, no number twice. Held only while choosing: a port taken since shows at the start."""
    chosen: list[int] = []
    candidates = random.sample(_PORTS, k=len(_PORTS))  # several clusters at once must not try in the same order
    for host in hosts:
        while True:
            if not candidates:
                raise CouldNotCheckError(f"no free port on {host} from {_PORTS.start} to {_PORTS.stop}")
            port = candidates.pop()
            with socket.socket() as probe:
                try:
                    probe.bind((host if host.startswith("127.") else "0.0.0.0", port))  # noqa: S104 - to look, not to listen
                except OSError:
                    continue
            chosen.append(port)
            break
    return chosen
