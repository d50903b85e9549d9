"""Rights on a ledger's topics: what each role may do there, and who may do what nobody may.

=========  =================================================================
producer   write its own source topics, and see that they exist
sealer     read and write source topics (it writes ticks), write and read
           sealed topics, use its consumer group
sink       read sealed topics, use its own consumer groups
=========  =================================================================

Nobody may delete a record or a topic, alter one, or change its settings: that
is denied to each of them by name, and deleting to everybody. Super users stand
above all rights; Kafka itself keeps no log of what they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.topics import group_name, sealed_topic, source_topic

if TYPE_CHECKING:
    from confluent_kafka.admin import AclBinding, AdminClient

Role = Literal["producer", "sealer", "sink"]
ROLES: Final[tuple[Role, ...]] = ("producer", "sealer", "sink")
EVERYBODY: Final = "*"
_DESTRUCTIVE: Final = ("DELETE", "ALTER", "ALTER_CONFIGS")
_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class Grant:
    """A user in a role; a producer may be kept to some streams (none named: all)."""

    role: Role
    user: str
    streams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Right:
    """One rule of the brokers. ``is_prefix``: for every name that begins like this."""

    resource: Literal["TOPIC", "GROUP"]
    name: str
    operation: str
    user: str
    is_allowed: bool = True
    is_prefix: bool = False


def parse_grant(text: str, streams: Iterable[str]) -> Grant:
    """``ROLE=USER`` or ``producer=USER:stream+stream``. Raises ConfigError for anything else."""
    role, _, rest = text.partition("=")
    user, colon, named = rest.partition(":")
    chosen = tuple(named.split("+")) if colon else ()
    known = tuple(streams)
    if role not in ROLES or not user or user == EVERYBODY or (chosen and role != "producer"):
        raise ConfigError(
            f"--acl {text!r}: expected producer=USER, producer=USER:stream+stream, sealer=USER, sink=USER"
        )
    if not set(chosen) <= set(known):
        raise ConfigError(f"--acl {text!r}: unknown stream; known: {', '.join(known)}")
    return Grant(role, user, chosen)


def rights_of(grants: Sequence[Grant], prefix: str, streams: Iterable[str]) -> list[Right]:
    """Every rule that these grants call for, refusals included."""
    every = tuple(streams)
    rights: dict[Right, None] = {}
    for grant in grants:
        mine = grant.streams or every
        sources = [source_topic(prefix, stream) for stream in mine]
        sealed = [sealed_topic(prefix, stream) for stream in mine]
        if grant.role == "producer":
            given: list[tuple[str, tuple[str, ...]]] = [(topic, ("WRITE", "DESCRIBE")) for topic in sources]
        elif grant.role == "sealer":
            given = [(topic, ("READ", "WRITE", "DESCRIBE")) for topic in (*sources, *sealed)]
        else:
            given = [(topic, ("READ", "DESCRIBE")) for topic in sealed]
        for topic, operations in given:
            rights |= {Right("TOPIC", topic, operation, grant.user): None for operation in operations}
        rights |= dict.fromkeys(_groups(grant, prefix))
        for topic in (t for stream in every for t in (source_topic(prefix, stream), sealed_topic(prefix, stream))):
            rights |= {Right("TOPIC", topic, name, grant.user, is_allowed=False): None for name in _DESTRUCTIVE}
            rights[Right("TOPIC", topic, "DELETE", EVERYBODY, is_allowed=False)] = None
    return list(rights)


def _groups(grant: Grant, prefix: str) -> list[Right]:
    if grant.role == "producer":
        return []
    own = "seal" if grant.role == "sealer" else "sink"
    return [
        Right("GROUP", group_name(prefix, own), "READ", grant.user, is_prefix=True),
        Right("GROUP", group_name(prefix, "tail"), "READ", grant.user),
    ]


def apply_rights(client: AdminClient, rights: Iterable[Right]) -> None:
    """Create the rules; those that are there already stay. Raises KafkaException."""
    for future in client.create_acls([_binding(right) for right in rights], request_timeout=_TIMEOUT_S).values():
        future.result(timeout=_TIMEOUT_S + 1)


def excessive_rights(client: AdminClient, topics: Iterable[str]) -> Mapping[str, list[str]] | None:
    """Topic -> who may destroy there, as the rules have it; None if these brokers check no rights at all.

    Raises KafkaException if we may not look.
    """
    from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType
    from confluent_kafka.admin import ResourcePatternType as Pattern
    from confluent_kafka.admin import ResourceType as Resource

    if not _are_checked(client):
        return None
    found: dict[str, list[str]] = {}
    for topic in topics:
        any_one: Any = None  # every user, every host; the types know no filter without them
        wanted = AclBindingFilter(
            Resource.TOPIC, topic, Pattern.MATCH, any_one, any_one, AclOperation.ANY, AclPermissionType.ANY
        )
        rules = client.describe_acls(wanted, request_timeout=_TIMEOUT_S).result(timeout=_TIMEOUT_S + 1)
        denied = {(rule.principal, rule.operation) for rule in rules if rule.permission_type == AclPermissionType.DENY}
        found[topic] = sorted(
            f"{rule.principal} may {rule.operation.name}"
            for rule in rules
            if rule.permission_type == AclPermissionType.ALLOW
            and rule.operation.name in ("ALL", *_DESTRUCTIVE)
            and (rule.principal, rule.operation) not in denied
            and (f"User:{EVERYBODY}", rule.operation) not in denied
        )
    return found


def _are_checked(client: AdminClient) -> bool:
    """Whether these brokers have an authorizer: without one, asking for rules gives an empty list (measured)."""
    from confluent_kafka.admin import ConfigResource, ResourceType

    cluster = client.describe_cluster(request_timeout=_TIMEOUT_S).result(timeout=_TIMEOUT_S + 1)
    broker = ConfigResource(ResourceType.BROKER, str(cluster.nodes[0].id))
    (answer,) = client.describe_configs([broker], request_timeout=_TIMEOUT_S).values()
    found = answer.result(timeout=_TIMEOUT_S + 1).get("authorizer.class.name")
    return found is None or bool(found.value)


def _binding(right: Right) -> AclBinding:
    from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType
    from confluent_kafka.admin import ResourcePatternType as Pattern
    from confluent_kafka.admin import ResourceType as Resource

    return AclBinding(
        Resource[right.resource],
        right.name,
        Pattern.PREFIXED if right.is_prefix else Pattern.LITERAL,
        f"User:{right.user}",
        "*",
        AclOperation[right.operation],
        AclPermissionType.ALLOW if right.is_allowed else AclPermissionType.DENY,
    )
