"""The demo on Kafka: brokers, topics, workers before the story; a drain behind the training; nothing left running.

Brokers, workers and training are tied to this process. The drain ends them in
order, and what follows it reads files alone.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rlhf_audit_schemas.errors import AuditTrailError, ConfigError

if TYPE_CHECKING:
    from rlhf_audit_trail.cluster_workers import ClusterWorkers
    from rlhf_audit_trail.demo.stage import Stage
    from rlhf_audit_trail.kafka_cluster import KafkaCluster

BROKERS = 3
PARTITIONS = "annotations=2,gradients=2,lifecycle=1,released=1"
_BROKERS = re.compile(r"[^\s,:\"\\]+:[0-9]+(,[^\s,:\"\\]+:[0-9]+)*")
_INSTALL = "pip install 'rlhf-audit-trail[processors]'"


class ClusterError(AuditTrailError):
    """The topics could not be made; what was printed says why."""


class DemoCluster:
    """What runs besides the story, until ``drain``."""

    def __init__(self, workers: ClusterWorkers, kafka: KafkaCluster | None) -> None:
        self._workers, self._kafka = workers, kafka

    def show_who_is_at_work(self, stage: Stage) -> None:
        """While it goes on."""
        self._workers.check()
        stage.console.print("\n[bold]Who is at work, and how far?[/bold]")
        stage.run("status", stage.trail)

    def drain(self, stage: Stage) -> None:
        """Everything recorded is stored and published, then workers and brokers end. Raises CouldNotCheckError."""
        with stage.busy("draining") as tell:
            self._workers.drain(tell)
        stage.say("\nShipped, sealed, windows closed, stored, published; the workers have ended in that order.")
        for name, times in self._workers.restarts.items():
            stage.say(f"({name} had to be started again, {times} times: see {self._workers.logs})")
        if self._kafka is not None:
            with stage.busy("the brokers end"):
                self._kafka.down()
            stage.say("The brokers have ended too: what follows reads the files of the trail, and nothing else.")


def check(brokers: str | None) -> None:
    """Before anything is made. Raises KafkaUnavailableError without Java or Maven, ConfigError without the worker."""
    try:
        distribution("faust-streaming")  # its module, once imported, has no spec to look for
    except PackageNotFoundError:
        raise ConfigError(f"faust-streaming is not installed, and the sealer on Kafka needs it: {_INSTALL}") from None
    if brokers is not None:
        if not _BROKERS.fullmatch(brokers):
            raise ConfigError(f"--brokers {brokers!r}: expected host:port,host:port")
    else:
        from rlhf_audit_trail.kafka_jars import jars, java
        from rlhf_audit_trail.progress import track

        java()  # before anything is fetched
        with track(None, "fetching Kafka", unit="files") as meter:
            jars(say=meter.advance)


@contextmanager
def cluster(stage: Stage, brokers: str | None) -> Iterator[DemoCluster]:
    """The chapter about the cluster; everything it started has ended when the block is left, however it is left."""
    from rlhf_audit_trail.cluster_workers import ClusterWorkers
    from rlhf_audit_trail.settings import KAFKA_KEYS, load_settings

    with ExitStack() as stack:
        stack.enter_context(_terminated_as_interrupted())
        stack.enter_context(_environment_without(["brokers", "topic_prefix"] if brokers else KAFKA_KEYS))
        kafka = None
        if brokers is None:
            kafka = stack.enter_context(_brokers(stage))
            brokers, prefix = kafka.bootstrap, ""
        else:
            prefix = f"demo-{secrets.token_hex(3)}."
            stage.chapter("A Kafka cluster that is there")
            stage.say(f"brokers {brokers}; the topics of this demo begin with {prefix} and stay\n")
        _configure(stage, brokers, prefix)
        if stage.run("topics", "apply", stage.trail) != 0:
            raise ClusterError(f"the topics could not be made at {brokers}")
        workers = ClusterWorkers(stage.trail, load_settings(stage.trail), clickhouse=find_spec("chdb") is not None)
        stage.say("\nWorkers, as an orchestrator would run them on machines of their own:\n")
        for words in workers.commands:
            stage.show_command(words)
        stage.say(f"(they go on behind what follows; their words are in {workers.logs})")
        stack.enter_context(workers)
        yield DemoCluster(workers, kafka)


@contextmanager
def _brokers(stage: Stage) -> Iterator[KafkaCluster]:
    from rlhf_audit_trail.kafka_cluster import KafkaCluster

    folder = stage.out / "kafka"
    stage.chapter(f"A Kafka cluster of {BROKERS} brokers on this machine")
    stage.show_command(["rlhf-audit", "kafka", "up", "--brokers", str(BROKERS), "--dir", str(folder), "--foreground"])
    with ExitStack() as stack:
        with stage.busy("the brokers start"):
            kafka = stack.enter_context(KafkaCluster(folder, brokers=BROKERS))
        stage.say(
            f"\nbrokers {kafka.bootstrap}: every partition three times, acknowledged when two have it, and they end "
            "with this demo\n"
        )
        yield kafka


def _configure(stage: Stage, brokers: str, prefix: str) -> None:
    from rlhf_audit_trail.demo.training_story import WINDOW_SECONDS

    lines = [f'brokers = "{brokers}"', f'partitions = "{PARTITIONS}"', f"window_seconds = {WINDOW_SECONDS}"]
    if prefix:
        lines.insert(1, f'topic_prefix = "{prefix}"')
    stage.trail.mkdir()
    (stage.trail / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stage.say(f"{stage.trail / 'config.toml'} is all that trainings and workers need to know:\n")
    for line in lines:
        stage.say(f"    {line}")
    stage.say("")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: in order."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment_without(keys: Iterable[str]) -> Iterator[None]:
    """Settings of the environment come before config.toml: those of another cluster must not lead ours astray."""
    from rlhf_audit_trail.settings import KEYS

    taken = {name: os.environ.pop(name) for key in keys if (name := KEYS[key].variable) in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
