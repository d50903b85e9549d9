"""docker-compose.yml, image and monitoring agree with the code: nothing of them can be started where the tests run."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_audit_trail import __version__, commands
from rlhf_audit_trail.cli import build_parser
from rlhf_audit_trail.kafka_config import NodePlace, server_properties
from rlhf_audit_trail.settings import KEYS, load_settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKERS = {name: service for name, service in SERVICES.items() if service.get("build", {}).get("target") == "worker"}
LONG_RUNNING = {name: service for name, service in WORKERS.items() if service["restart"] != "no"}
METRICS_PORT = 9464

# What these files lean on in the images, which cannot be looked into here: the ports their programs listen on.
INSIDE = {
    "kafka": {9092, 9093, 9094},
    "registry": {8080},
    "clickhouse": {8123},
    "objects": {7070},
    "prometheus": {9090},
    "alertmanager": {9093},
    "grafana": {3000},
    **{name: {METRICS_PORT} for name in LONG_RUNNING},
}


def ports(service: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Address, host port and container port of each published port."""
    return [(host, int(out), int(inner)) for host, out, inner in (each.split(":") for each in service.get("ports", []))]


def environment_of(name: str) -> dict[str, str]:
    values: dict[str, str] = SERVICES[name].get("environment", {})
    assert all(isinstance(value, str) for value in values.values()), f"{name}: Compose wants text in quotes"
    return values


def variables(text: str) -> set[str]:
    """Names of ${...} outside comments, as Compose sees them."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return set(re.findall(r"(?<!\$)\$\{(\w+)", "\n".join(lines)))


# ---------------------------------------------------------------- the roles


def test_there_is_one_service_for_each_role() -> None:
    assert {name: service["command"][:-1] for name, service in WORKERS.items()} == {
        "topics": ["topics", "apply"],
        "kit": ["keys", "/trail", "--node-kit"],
        "ship": ["ship"],
        "seal": ["seal"],
        "sink-objects": ["sink", "objects"],
        "sink-clickhouse": ["sink", "clickhouse"],
        "sequence": ["sequence"],
    }


@pytest.mark.parametrize("name", WORKERS)
def test_the_command_of_a_role_is_one_that_the_program_understands(name: str) -> None:
    command = WORKERS[name]["command"]
    if command[0] not in commands.NAMES:
        pytest.skip(f"rlhf-audit {command[0]} does not exist yet")
    args = build_parser().parse_args(command)
    assert str(args.directory) == ("/node" if name == "ship" else "/trail")
    mounted = {volume.rpartition(":")[2] for volume in WORKERS[name]["volumes"]}
    assert mounted == {word for word in command if word.startswith("/")}


def test_whoever_meets_a_training_does_not_get_the_keys_of_the_trail() -> None:
    """The folder a training writes into is shared with a process that was told what to ship, and with no signer."""
    with_node = {name for name, one in WORKERS.items() if any(each.endswith(":/node") for each in one["volumes"])}
    assert with_node == {"kit", "ship"}
    assert not any("AUDIT_TRAIL" in volume for volume in WORKERS["ship"]["volumes"])


@pytest.mark.parametrize("name", WORKERS)
def test_the_environment_of_a_role_is_valid_settings(name: str, tmp_path: Path) -> None:
    environment = environment_of(name)
    settings = load_settings(tmp_path, environ=environment)
    given = {variable for variable in environment if variable.startswith("RLHF_AUDIT_")}
    assert given <= {key.variable for key in KEYS.values()}
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", METRICS_PORT)  # noqa: S104 - a container
    assert settings.need_kafka().broker_list == ("kafka:9092",)
    foreign = set(environment) - given
    assert all(variable.startswith("AWS_") for variable in foreign)


def test_only_who_reads_or_writes_evidence_gets_its_keys() -> None:
    for name, service in WORKERS.items():
        has_keys = {"s3_access_key", "s3_secret_key"} <= set(service.get("secrets", []))
        assert has_keys == (name != "ship")
        assert has_keys == ("RLHF_AUDIT_OBJECTS_URL" in environment_of(name))
    with_password = [name for name, one in WORKERS.items() if "clickhouse_sink_password" in one.get("secrets", [])]
    assert with_password == ["sink-clickhouse"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_role_is_scraped_under_its_name_waits_for_its_topics_and_is_looked_after(name: str) -> None:
    service = LONG_RUNNING[name]
    jobs = {
        job["job_name"]: job["dns_sd_configs"][0]
        for job in yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
        if "dns_sd_configs" in job
    }
    assert (jobs[f"audit-{name}"]["names"], jobs[f"audit-{name}"]["port"]) == ([name], METRICS_PORT)
    assert jobs.keys() == {f"audit-{each}" for each in LONG_RUNNING}
    first = "kit" if name == "ship" else "topics"
    assert service["depends_on"][first] == {"condition": "service_completed_successfully"}
    assert service["healthcheck"]["test"] == ["CMD", "python", "/usr/local/bin/healthy.py"]
    assert service["stop_grace_period"] == "40s"


def test_the_missing_role_alert_names_the_roles_of_the_file() -> None:
    alerts = (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'absent\(up\{job="audit-([a-z-]+)"', alerts)) == LONG_RUNNING.keys()


# ---------------------------------------------------------------- addresses


def test_every_address_names_a_service_and_a_port_that_it_listens_on() -> None:
    texts = [(ROOT / "docker-compose.yml").read_text(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8") for path in DEPLOY.rglob("*.yml")]
    found = {
        (host, int(port))
        for text in texts
        for host, port in re.findall(rf"\b({'|'.join(map(re.escape, SERVICES))}):([0-9]{{4,5}})\b", text)
    }
    assert {("kafka", 9092), ("registry", 8080), ("objects", 7070), ("prometheus", 9090)} <= found
    for host, port in found:
        assert port in INSIDE[host], f"{host}:{port}"


def test_published_ports_are_loopback_ports_that_exist_and_none_twice() -> None:
    published = [(name, *port) for name, service in SERVICES.items() for port in ports(service)]
    for name, address, _, inside in published:
        assert address == "127.0.0.1"
        assert inside in INSIDE[name]
        assert "edge" in SERVICES[name]["networks"], "a network without a way out publishes nothing"
    assert len({outside for _, _, outside, _ in published}) == len(published)


def test_workers_reach_nothing_outside_the_pipeline() -> None:
    assert COMPOSE["networks"]["pipeline"] == {"internal": True}
    for service in WORKERS.values():
        assert service["networks"] == ["pipeline"]
        assert "ports" not in service
    assert all("pipeline" in service["networks"] for service in SERVICES.values())


def test_the_broker_of_the_file_is_told_what_the_launcher_tells_its_own() -> None:
    told = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment_of("kafka").items()
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }
    text = server_properties(
        1, {1: NodePlace("kafka", 9092, 9093)}, Path("/data"), tls=None, admin_password=None, overrides={}
    )
    ours = dict(line.split("=", 1) for line in text.splitlines())
    places = {"listeners", "advertised.listeners", "listener.security.protocol.map", "log.dirs"}
    assert told.keys() <= ours.keys()
    assert {name: told[name] for name in told.keys() - places} == {name: ours[name] for name in told.keys() - places}
    safety = {"auto.create.topics.enable", "unclean.leader.election.enable", "min.insync.replicas"}
    assert safety <= told.keys()
    names = {part.split(":")[0] for part in told["listener.security.protocol.map"].split(",")}
    assert {part.split(":")[0] for part in told["listeners"].split(",")} == names
    assert {part.split(":")[0] for part in told["advertised.listeners"].split(",")} == names - {"CONTROLLER"}
    assert "message.max.bytes" not in told, "topics must fit brokers that were left at 1 MB"


# ---------------------------------------------------------------- versions


def test_every_image_is_pinned_exactly() -> None:
    for name, service in SERVICES.items():
        repository, _, tag = service["image"].rpartition(":")
        assert re.fullmatch(r"v?[0-9]+\.[0-9]+\.[0-9]+(\.[0-9]+)?", tag), f"{name}: {tag}"
        assert repository
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M):
        assert re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+(-slim-bookworm)?(@sha256:[0-9a-f]{64})?$", base), base


def test_versions_are_those_that_the_tests_run() -> None:
    pom = ET.parse(DEPLOY / "kafka/pom.xml")  # noqa: S314 - a file of this repository
    kafka = pom.findtext(".//m:kafka.version", namespaces={"m": "http://maven.apache.org/POM/4.0.0"})
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka}"
    assert {service["image"] for service in WORKERS.values()} == {f"rlhf-audit-trail:{__version__}"}
    gateway = re.search(r'^VERSION = "v(.*)"', (ROOT / "tests/contract/versitygw.py").read_text(encoding="utf-8"), re.M)
    assert gateway is not None
    assert SERVICES["objects"]["image"] == f"rlhf-audit-objects:{gateway[1]}"
    assert f"FROM versity/versitygw:v{gateway[1]} AS objects" in DOCKERFILE
    assert len(set(re.findall(r"^FROM (python:\S+)", DOCKERFILE, re.M))) == 1


def test_the_image_runs_a_python_that_the_project_and_its_types_are_checked_for() -> None:
    version = re.search(r"^FROM python:(3\.[0-9]+)", DOCKERFILE, re.M)
    assert version is not None
    assert version[1] == PROJECT["tool"]["mypy"]["python_version"]


# ---------------------------------------------------------------- rights and secrets


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_runs_as_root_or_may_become_it(name: str) -> None:
    service = SERVICES[name]
    user = str(service["user"])
    assert user.split(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode"}
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    assert service["mem_limit"]
    assert service["restart"] in ("unless-stopped", "no")


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"topics", "kit"}))
def test_every_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= check.keys()


def test_both_images_drop_root_before_they_start() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]
    shipped = [stage for stage in stages if "ENTRYPOINT" in stage]
    assert len(shipped) == 2
    for stage in shipped:
        assert re.search(r"^USER 1000:1000$", stage, re.M)
        assert "HEALTHCHECK" in stage
        assert stage.index("USER 1000") > stage.rindex("RUN ")


def test_packages_are_installed_with_hashes_or_from_this_checkout() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) ([^\n\\]*)", DOCKERFILE)
    assert len(installs) == 4
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-deps" in arguments
        if "--require-hashes" in arguments:
            assert "--only-binary :all:" in arguments
            assert (ROOT / re.findall(r"-r (\S+)", arguments)[0]).is_file()


def test_the_build_gets_every_folder_that_the_package_is_made_of_and_no_secret() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for source in [word for word in line.split() if not word.startswith("--")][:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
    build = PROJECT["tool"]["hatch"]["build"]
    needed = [Path(package).parts[0] for package in build["targets"]["wheel"]["packages"]]
    needed += [str(Path(path).parent) for path in build["targets"]["wheel"].get("force-include", {})]
    assert set(needed) <= copied
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    for source in copied:
        assert any(source == place or source.startswith(f"{place}/") for place in allowed), source
    assert not [place for place in allowed if "secrets" in place or place in ("deploy", ".env", "tests")]


def test_every_secret_is_a_file_outside_the_repository_that_the_script_makes() -> None:
    secrets = COMPOSE["secrets"]
    made = re.findall(r"^keep (\S+)", (DEPLOY / "prepare.sh").read_text(encoding="utf-8"), re.M)
    assert {Path(secret["file"]).name for secret in secrets.values()} == set(made)
    assert {Path(secret["file"]).parent.as_posix() for secret in secrets.values()} == {"deploy/secrets"}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/.env", "/deploy/secrets/"} <= set(ignored)
    used = [
        each if isinstance(each, str) else each["source"]
        for one in SERVICES.values()
        for each in one.get("secrets", [])
    ]
    assert set(used) == secrets.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_secrets_that_it_gets_and_holds_no_password(name: str) -> None:
    service = SERVICES[name]
    got = {each for each in service.get("secrets", []) if isinstance(each, str)}
    for variable, value in environment_of(name).items():
        if value.startswith("/run/secrets/"):
            assert value.removeprefix("/run/secrets/") in got
        elif re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", variable):
            pytest.fail(f"{name}: {variable} holds its secret instead of naming a file")
    provisioned = (DEPLOY / "grafana/provisioning/datasources/datasources.yml").read_text(encoding="utf-8")
    if name == "grafana":
        assert set(re.findall(r"/run/secrets/(\w+)", provisioned)) <= got


def test_every_volume_network_and_file_that_is_named_exists() -> None:
    named: set[str] = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro")
            elif "$" not in source:
                named.add(source)
        assert set(service["networks"]) <= COMPOSE["networks"].keys()
        for other in service.get("depends_on", {}):
            assert other in SERVICES
    assert named == COMPOSE["volumes"].keys()


def test_the_example_of_the_environment_names_every_variable_that_the_file_needs() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert variables((ROOT / "docker-compose.yml").read_text(encoding="utf-8")) == set(
        re.findall(r"^(\w+)=", example, re.M)
    )


def test_the_users_of_clickhouse_are_those_that_services_log_in_as() -> None:
    users = ET.parse(DEPLOY / "clickhouse/users.xml.in").getroot().find("users")  # noqa: S314 - a file of this repository
    assert users is not None
    assert [user.tag for user in users] == ["default", "sink", "grafana"]
    assert users[0].attrib == {"remove": "remove"}
    assert environment_of("sink-clickhouse")["RLHF_AUDIT_CLICKHOUSE_USER"] == "sink"
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/datasources.yml").read_text(encoding="utf-8"))
    clickhouse = next(one for one in sources["datasources"] if one["uid"] == "clickhouse")
    assert clickhouse["jsonData"]["username"] == "grafana"
    plugin, _, version = environment_of("grafana")["GF_PLUGINS_PREINSTALL_SYNC"].partition("@")
    assert plugin == clickhouse["type"]
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version)
    granted = " ".join(query.text or "" for query in users.iter("query"))
    assert not re.search(r"\b(ALTER|DELETE|DROP|TRUNCATE|ALL|OPTIMIZE)\b", granted)
