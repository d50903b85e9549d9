"""Names of topics and groups, and the facts that make a topic one source log and no other.

Kafka prints cluster ids and topic UUIDs as URL-safe base64 without padding;
confluent_kafka's ``str(Uuid)`` has + and / instead of - and _. A topic that was deleted and made
again has another UUID and is another source.

The number of partitions comes from the genesis; what a broker says is only
compared with it. Nothing is created here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_audit_ledger.ids import source_id
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.kafka.errors import ErrorWatch, broker_error
from rlhf_audit_stores.kafka.settings import KafkaSettings

if TYPE_CHECKING:
    from confluent_kafka import KafkaException, Uuid
    from confluent_kafka.admin import AdminClient

_TO_URL_SAFE = str.maketrans("+/", "-_")
ASK_TIMEOUT_S = 15.0  # above the socket's 6 s: one silent broker must not make a question fail


def source_topic(prefix: str, stream: str) -> str:
    """Topic of the source log of a stream."""
    return f"{prefix}audit.{stream}"


def sealed_topic(prefix: str, stream: str) -> str:
    """Topic of the sealed records of a stream; same partition numbers, same order."""
    return f"{prefix}audit.sealed.{stream}"


def group_name(prefix: str, role: str) -> str:
    """Consumer group of a role (``seal``, ``sink.objects``, ``tail``): all begin alike, so one ACL covers them."""
    return f"{prefix}audit.{role}"


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the brokers say of a topic. ``cluster_id`` and ``topic_uuid`` as Kafka prints them."""

    topic: str
    cluster_id: str
    topic_uuid: str
    partitions: int

    @property
    def source_id(self) -> bytes:
        """16 bytes that name this very topic of this very cluster."""
        return source_id_of(self.cluster_id, self.topic_uuid)


def source_id_of(cluster_id: str, topic_uuid: str) -> bytes:
    """``source_id`` of a Kafka topic, as the format has it."""
    return source_id(cluster_id, topic_uuid)


def printed_uuid(uuid: Uuid) -> str:
    """A UUID as Kafka's own tools print it: 22 characters of URL-safe base64."""
    return str(uuid).translate(_TO_URL_SAFE).rstrip("=")


def admin_client(settings: KafkaSettings) -> tuple[AdminClient, ErrorWatch]:
    """An AdminClient and what it is told behind our back. Keep it in a variable: a temporary one fails."""
    from confluent_kafka.admin import AdminClient

    watch = ErrorWatch()
    config = settings.admin_config()
    config["error_cb"] = watch
    return AdminClient(config), watch


def read_topic_facts(
    settings: KafkaSettings, topics: Iterable[str], *, timeout_s: float = ASK_TIMEOUT_S
) -> dict[str, TopicFacts]:
    """Facts of those of ``topics`` that exist.

    Raises BrokerError if no broker answers, RefusedByBrokerError if they do not let us look.
    """
    client, watch = admin_client(settings)
    return topic_facts(client, watch, topics, timeout_s=timeout_s)


def topic_facts(
    client: AdminClient, watch: ErrorWatch, topics: Iterable[str], *, timeout_s: float = ASK_TIMEOUT_S
) -> dict[str, TopicFacts]:
    """``read_topic_facts`` with a client that is there already."""
    from confluent_kafka import KafkaError, KafkaException, TopicCollection

    wanted = sorted(set(topics))
    where = f"brokers: describe {', '.join(wanted)}"
    try:
        cluster = client.describe_cluster(request_timeout=timeout_s).result(timeout=timeout_s + 1)
        answers = client.describe_topics(TopicCollection(wanted), request_timeout=timeout_s) if wanted else {}
        if not cluster.cluster_id:
            raise watch.explain(where, "the cluster has no id yet")
        found: dict[str, TopicFacts] = {}
        for topic, answer in answers.items():
            try:
                described = answer.result(timeout=timeout_s + 1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
                continue
            uuid = printed_uuid(described.topic_id)
            found[topic] = TopicFacts(topic, cluster.cluster_id, uuid, len(described.partitions))
    except (KafkaException, TimeoutError) as error:
        raise failed_question(client, watch, where, error) from error
    return found


def failed_question(
    client: AdminClient, watch: ErrorWatch, where: str, error: KafkaException | TimeoutError
) -> AuditTrailError:
    """Our error for a question that failed. A wrong password shows only here: it is told to whoever polls."""
    while client.poll(0) > 0:
        pass
    if watch.refusal is not None or isinstance(error, TimeoutError):
        return watch.explain(where, "no answer")
    return broker_error(where, error.args[0])
