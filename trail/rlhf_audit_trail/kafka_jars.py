"""The broker's jars, resolved by Maven into a cache, once per version of ``deploy/kafka/pom.xml``.

Nothing is fetched from an address named here: Maven uses the repository that
the machine is set up for. Java and Maven are the person's own; without them we
say what to install and change nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from rlhf_audit_schemas.errors import CouldNotCheckError

MIN_JAVA = 17  # what Kafka 4 brokers are compiled for
_MAVEN_TIMEOUT_S = 600
_INSTALL = "on Debian or Ubuntu: apt-get install openjdk-17-jre-headless maven"


class KafkaUnavailableError(CouldNotCheckError):
    """No broker can be run on this machine; the message says what is missing."""


def java() -> str:
    """The ``java`` to run. Raises KafkaUnavailableError if there is none that is new enough."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise KafkaUnavailableError(f"no Java here: Kafka needs Java {MIN_JAVA} or newer; {_INSTALL}")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    version = re.search(r'version "(?:1\.)?([0-9]+)', said.stderr + said.stdout)
    if said.returncode != 0 or version is None or int(version[1]) < MIN_JAVA:
        shown = version[1] if version else "unknown"
        raise KafkaUnavailableError(f"{found} is Java {shown}: Kafka needs {MIN_JAVA} or newer; {_INSTALL}")
    return found


def pom() -> Path:
    """The file that pins the versions: in a checkout where people look for it, in a wheel beside this module."""
    places = (
        Path(__file__).parents[2] / "deploy" / "kafka" / "pom.xml",
        Path(__file__).parent / "deploy" / "kafka" / "pom.xml",
    )
    for place in places:
        if place.is_file():
            return place
    raise KafkaUnavailableError(f"{places[0]} is missing: this installation is incomplete")


def jars(cache: Path | None = None, say: Callable[[int], None] = lambda files: None) -> Path:
    """Folder of the jars, fetched now if it is not there; ``say`` is told each file more.

    Raises KafkaUnavailableError without Maven, or if Maven cannot resolve them.
    """
    pinned = pom()
    root = cache_folder() if cache is None else cache
    folder = root / f"kafka-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError(f"no Maven here, and Kafka's jars are not in {root} yet; {_INSTALL}")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as fetching:
        _resolve(maven, pinned, Path(fetching) / "lib", root / "maven.log", say)
        try:
            (Path(fetching) / "lib").rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first: the same files
                raise
    return folder


def cache_folder() -> Path:
    """Where fetched programs are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rlhf-audit"


def _resolve(maven: str, pinned: Path, target: Path, log: Path, say: Callable[[int], None]) -> None:
    command = [maven, "-B", "-f", str(pinned), "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,  # noqa: S603
    ):
        assert process.stdout is not None  # noqa: S101 - asked for above
        for line in process.stdout:
            kept.write(line)
            if "Downloaded from" in line or "Copying " in line:
                say(1)
        status = process.wait(timeout=_MAVEN_TIMEOUT_S)
    if status != 0 or not any(target.glob("kafka_2.13-*.jar")):
        raise KafkaUnavailableError(f"Maven could not resolve Kafka's jars (exit status {status}); see {log}")
