"""``rlhf-audit kafka up|down|status``: real Kafka on this machine, to try the cluster mode.

Loopback only. ``up`` returns when the brokers serve and leaves them running;
with ``--foreground`` they live as long as the command, however it ends.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.settings import PREFIX

if TYPE_CHECKING:
    from rlhf_audit_trail.kafka_cluster import KafkaCluster

HELP = "run Kafka brokers on this machine, to try the cluster mode"
EXAMPLES = """\
rlhf-audit kafka up                           one broker, data in ./rlhf-audit-kafka
rlhf-audit kafka up --brokers 3 --secure      three brokers, logins over TLS and rights
rlhf-audit kafka status --json
rlhf-audit kafka down                         stop them; `up` starts them again with their data
"""
DEFAULT = Path("rlhf-audit-kafka")
ROLE_USERS = ("producer", "sealer", "sink")  # made by --secure; `rlhf-audit topics apply --acl` gives them rights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("up", "down", "status"), help="start, stop, or look")
    parser.add_argument("--dir", dest="directory", type=Path, default=DEFAULT, help="folder (default %(default)s)")
    parser.add_argument("--brokers", dest="count", type=int, choices=(1, 3), help="how many, when made (default 1)")
    parser.add_argument("--secure", action="store_true", help="SCRAM-SHA-512 over TLS and ACLs, when made")
    parser.add_argument("--foreground", action="store_true", help="stop the brokers when this command ends")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.kafka_cluster import KafkaCluster

    if args.action == "up":
        return _up(args)
    cluster = KafkaCluster.existing(args.directory)
    if args.action == "down":
        cluster.down()
    status = cluster.status()
    _show(status, as_json=args.json)
    is_right = all(pid is None for pid in status["nodes"].values()) if args.action == "down" else status["ready"]
    return 0 if is_right else 3


def _up(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.kafka_cluster import KafkaCluster
    from rlhf_audit_trail.kafka_jars import jars
    from rlhf_audit_trail.progress import track

    is_new = not (args.directory / "cluster.json").exists()
    cluster = KafkaCluster(args.directory, brokers=args.count or 1, secure=args.secure, is_tied=bool(args.foreground))
    if not is_new and ((args.secure and not cluster.is_secure) or args.count not in (None, len(cluster.nodes))):
        raise ConfigError(f"{args.directory} holds another kind of cluster: pass another --dir or remove it")
    with track(None, "fetching Kafka", unit="files") as meter:
        jars(say=meter.advance)
    with track(None, "starting the brokers", unit="s"):
        try:
            cluster.up()
            if is_new and cluster.is_secure:
                for user in ROLE_USERS:
                    cluster.create_user(user)
        except BaseException:
            cluster.down()
            raise
    _show(cluster.status(), as_json=args.json)
    if not args.json:
        _say_how_to_use(cluster)
    if args.foreground:
        _wait(cluster)
    return 0


def _wait(cluster: KafkaCluster) -> None:
    stop = threading.Event()

    def note(number: int, frame: Any) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    sys.stdout.flush()
    while not stop.wait(1.0):
        dead = [node for node, pid in cluster.pids().items() if pid is None]
        if dead:
            print(f"node {dead[0]} ended by itself", file=sys.stderr)
            break
    cluster.down()


def _show(status: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status, indent=2))
        return
    print(f"brokers  {status['brokers']}{'  (TLS, logins, rights)' if status['secure'] else ''}")
    for node, pid in status["nodes"].items():
        print(f"node {node}   {f'pid {pid}' if pid is not None else 'not running'}")
    print(f"state    {'ready' if status['ready'] else 'not ready'}")


def _say_how_to_use(cluster: KafkaCluster) -> None:
    """The environment that makes the other commands use these brokers, on stderr."""
    settings = cluster.settings()
    values = {"BROKERS": settings.brokers}
    if cluster.is_secure:
        values |= {
            "KAFKA_SECURITY_PROTOCOL": settings.security_protocol,
            "KAFKA_SASL_MECHANISM": str(settings.sasl_mechanism),
            "KAFKA_CA_FILE": str(settings.ca_file),
            "KAFKA_USERNAME": str(settings.username),
            "KAFKA_PASSWORD_FILE": str(settings.password_file),
        }
    print("to use them:", file=sys.stderr)
    for name, value in values.items():
        print(f"  export {PREFIX}{name}={shlex.quote(value)}", file=sys.stderr)
