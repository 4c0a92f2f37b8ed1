"""The files of stack/ and traefik/, held against one another, against the settings, and against the programs that read
them. That the whole of it runs is shown on a Swarm, by ``tests/stack``."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import Postgres, Redis, free_port

from mailfarm import cli, config

ROOT = Path(__file__).resolve().parent.parent
STACK = ROOT / "stack"
OVERLAYS = ["one-node.yml", "shards.yml", "external.yml", "monitoring.yml", "encrypted.yml"]


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return read(STACK / "mailfarm.yml")


@pytest.fixture(scope="module")
def traefik() -> dict[str, Any]:
    return read(ROOT / "traefik" / "traefik.yml")


def ours(stack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Mailfarm's own services."""
    return {name: service for name, service in stack["services"].items() if name in cli.SERVICES}


def test_every_service_is_in_the_stack(stack: dict[str, Any]) -> None:
    assert set(ours(stack)) == set(cli.SERVICES)
    assert all(service["command"] == [name] for name, service in ours(stack).items())


@pytest.mark.parametrize("file", ["mailfarm.yml", *OVERLAYS])
def test_old_clients_read_the_files(file: str) -> None:
    """Without a version Docker 20.10 takes a file for one of 2014, and 3.8 knows no limits.pids."""
    assert read(STACK / file)["version"] == "3.9"


def test_all_settings_in_the_stack_exist(stack: dict[str, Any]) -> None:
    known = {variable.name for variable in config.variables()}
    known |= {f"{name}_FILE" for name in known}
    for name, service in {**ours(stack), "schema": stack["services"]["schema"]}.items():
        assert set(service["environment"]) <= known, name


def test_each_service_can_end_in_time(stack: dict[str, Any]) -> None:
    for name, service in ours(stack).items():
        environment = service["environment"]
        needs = float(environment["MAILFARM_LINGER"]) + float(environment["MAILFARM_GRACE"])
        assert float(service["stop_grace_period"].removesuffix("s")) > needs + 5, name


def test_what_keeps_nothing_is_there_twice(stack: dict[str, Any]) -> None:
    for name, service in ours(stack).items():
        if name == "spool":
            assert service["deploy"]["mode"] == "global"  # one on each node
        else:
            assert service["deploy"]["replicas"] >= (1 if name == "sweep" else 2), name
        assert service["deploy"]["update_config"]["order"] == "start-first"
        assert service["deploy"]["update_config"]["failure_action"] == "rollback"


def test_no_service_is_more_than_it_must_be(stack: dict[str, Any]) -> None:
    added = {
        name: service
        for file in OVERLAYS
        for name, service in read(STACK / file).get("services", {}).items()
        if "image" in service
    }
    assert set(added) == {"redis-queue-3", "prometheus"}
    for name, service in {**stack["services"], **added}.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert name == "swarm-api" or not service["user"].startswith("0"), name
        limits = service["deploy"]["resources"]["limits"]
        assert limits["memory"], name
        assert limits["pids"], name
        assert service["deploy"]["endpoint_mode"] == "dnsrr", name
        assert service["logging"]["options"]["max-size"], name


def test_no_service_asks_for_more_files_than_its_engine_has(stack: dict[str, Any]) -> None:
    """It would not start there. Each raises its own limit to the engine's: ours, Traefik and Redis."""
    assert not [name for name, service in stack["services"].items() if "ulimits" in service]


def test_postgres_has_connections_for_an_update(stack: dict[str, Any]) -> None:
    """A pool of eight for each process, also while each service has one more."""
    found = re.search(r"^max_connections = (\d+)", (STACK / "postgresql.conf").read_text("utf-8"), re.M)
    assert found
    processes = sum(service["deploy"]["replicas"] + 1 for name, service in ours(stack).items() if name != "spool")
    assert 1.15 * 8 * processes < int(found[1])


def test_encrypted_networks_are_the_same_networks(stack: dict[str, Any]) -> None:
    encrypted = read(STACK / "encrypted.yml")
    assert set(encrypted) == {"version", "networks"}
    assert {name: each.pop("driver_opts") for name, each in encrypted["networks"].items()} == {
        name: {"encrypted": "true"} for name in stack["networks"]
    }
    assert encrypted["networks"] == stack["networks"]


def test_a_third_shard_is_as_the_second(stack: dict[str, Any]) -> None:
    more = read(STACK / "shards.yml")
    second, third = stack["services"]["redis-queue-2"], more["services"]["redis-queue-3"]

    def numbered(value: Any) -> Any:
        return yaml.safe_load(yaml.safe_dump(value).replace("redis-queue-2", "redis-queue-3"))

    replicas = second["deploy"].pop("replicas")
    assert replicas == "${REDIS_QUEUE_REPLICAS:-1}"  # an external queue has no third shard of ours
    try:
        assert third == numbered(second)
    finally:
        second["deploy"]["replicas"] = replicas
    urls = re.match(r"\$\{MAILFARM_QUEUE_URL:-(.+)\}$", stack["services"]["mx"]["environment"]["MAILFARM_QUEUE_URL"])
    assert urls
    users = {name for name, each in ours(stack).items() if "MAILFARM_QUEUE_URL" in each.get("environment", {})}
    assert {"mx", "submission", "inbound", "spool", "api"} <= users
    assert users == {name for name, each in more["services"].items() if "environment" in each}
    for name in users:
        url = more["services"][name]["environment"]["MAILFARM_QUEUE_URL"]
        assert url == f"{urls[1]},redis://mailfarm@redis-queue-3:6379/0"


def test_who_accepts_mail_and_who_drains_share_the_spool_of_a_node(stack: dict[str, Any]) -> None:
    """A volume that is made on each node, which the image's user may write to under a read-only root."""
    mounts = {name: service for name, service in ours(stack).items() if "spool:" in str(service["volumes"])}
    assert set(mounts) == {"mx", "submission", "spool"}
    for service in mounts.values():
        folder = service["environment"]["MAILFARM_SPOOL"]
        assert f"spool:{folder}" in service["volumes"]
        assert len(service["volumes"]) == 3  # and the two in memory
    assert f"mkdir -p {folder}; chown 10001:10001 {folder}" in (STACK / "Dockerfile").read_text("utf-8")
    assert stack["volumes"]["spool"] == {}  # the local driver


def test_only_the_way_to_the_swarm_has_the_socket(stack: dict[str, Any]) -> None:
    holders = [name for name, service in stack["services"].items() if "docker.sock" in str(service.get("volumes"))]
    assert holders == ["swarm-api"]
    assert stack["services"]["swarm-api"]["networks"] == ["control"]
    assert [name for name, each in stack["services"].items() if "control" in each["networks"]] == [
        "traefik",
        "swarm-api",
    ]


def test_proxies_are_believed_from_the_edge_and_from_nowhere_else(stack: dict[str, Any]) -> None:
    edge = stack["networks"]["edge"]
    (subnet,) = [config["subnet"] for config in edge["ipam"]["config"]]
    assert edge["attachable"] is False
    for name, service in ours(stack).items():
        for setting, value in service["environment"].items():
            if setting.endswith(("_PROXY_FROM", "_FORWARDED_FROM")):
                assert value == subnet, f"{name}: {setting}"
    assert {name for name, each in stack["services"].items() if "edge" in each["networks"]} == {
        "traefik", "mx", "submission", "api", "live",
    }  # fmt: skip


def test_secrets_go_where_they_are_used(stack: dict[str, Any]) -> None:
    for name, service in {**ours(stack), "schema": stack["services"]["schema"]}.items():
        targets = {f"/run/secrets/{secret['target']}" for secret in service.get("secrets", [])}
        used = {value for value in service["environment"].values() if str(value).startswith("/run/secrets/")}
        assert used <= targets, name
        assert targets - used <= {"/run/secrets/cache_password"}, name
        assert all(secret["mode"] == 0o400 for secret in service["secrets"]), name


def test_configs_and_secrets_are_named_by_their_content(stack: dict[str, Any], deployment: Any) -> None:
    settings = deployment.settings
    for name, config_ in {**stack["configs"], **read(STACK / "monitoring.yml")["configs"]}.items():
        assert config_["name"] == f"mailfarm_{name}_${{HASH_{name}:?stack/deploy}}"
        assert name in settings.CONFIGS
        if not config_["file"].startswith("$"):
            assert (STACK / config_["file"]).resolve() == settings.CONFIGS[name]
    assert set(stack["secrets"]) == {name.replace(".", "_") for name in settings.SECRETS}
    for name, secret in stack["secrets"].items():
        assert secret["name"] == f"mailfarm_{name}_${{HASH_{name}:?stack/deploy}}"


def test_the_deploy_command_knows_the_defaults_of_the_stack(deployment: Any) -> None:
    text = (STACK / "mailfarm.yml").read_text("utf-8")
    for name, image in deployment.checks.IMAGES.items():
        assert f"${{{name}:-{image}}}" in text
    assert f"${{MAILFARM_EDGE_SUBNET:-{deployment.checks.SUBNET}}}" in text
    files = text, *((STACK / name).read_text("utf-8") for name in ("shards.yml", "monitoring.yml"))
    labels = {label for file in files for label in re.findall(r"node\.labels\.mailfarm\.([a-z0-9-]+) ==", file)}
    known = {"POSTGRES_REPLICAS": "1", "REDIS_QUEUE_REPLICAS": "1"}
    assert labels == set(deployment.labels.stateful(files, known))


def test_all_variables_are_given_or_have_a_default(
    deployment: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What stack/prepare writes and an image are enough."""
    prepare(tmp_path / "private")
    monkeypatch.setenv("MAILFARM_PRIVATE", str(tmp_path / "private"))
    monkeypatch.setenv("MAILFARM_IMAGE", "mailfarm:0")
    found = deployment.settings.settings()
    for file in ["mailfarm.yml", *OVERLAYS]:
        for name, default in re.findall(r"\$\{([A-Za-z_0-9]+)(:-)?", (STACK / file).read_text("utf-8")):
            assert default or name in found, f"{file}: {name}"


def prepare(private: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STACK / "prepare", "mail.example.org", *words],
        env={**os.environ, "MAILFARM_PRIVATE": str(private)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    assert prepare(tmp_path).returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {
        "database_password", "queue_password", "cache_password", "first_token",
        "tls.crt", "tls.key", "ca.crt", "farm.env",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    again = prepare(tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_certificate_of_ones_own_is_taken_with_its_key_only(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    prepare(theirs)
    prepare(ours)
    wrong = prepare(ours, "--certificate", str(theirs / "tls.crt"), "--key", str(ours / "tls.key"))
    assert wrong.returncode == 1
    assert "is not the key of" in wrong.stderr
    assert prepare(ours, "--certificate", str(theirs / "tls.crt"), "--key", str(theirs / "tls.key")).returncode == 0
    assert (ours / "tls.crt").read_bytes() == (theirs / "tls.crt").read_bytes()
    assert not (ours / "ca.crt").exists()


# --- Traefik ---------------------------------------------------------------------------------------------------------
def labels(stack: dict[str, Any]) -> dict[str, str]:
    return {
        label: value
        for service in stack["services"].values()
        for label, value in service.get("deploy", {}).get("labels", {}).items()
        if label.startswith(("traefik.tcp.", "traefik.http."))
    }


def test_each_port_of_the_world_has_an_entry_point(stack: dict[str, Any], traefik: dict[str, Any]) -> None:
    inside = {each["target"]: each["published"] for each in stack["services"]["traefik"]["ports"]}
    points = {int(each["address"].removeprefix(":")): name for name, each in traefik["entryPoints"].items()}
    assert {inside.get(port): name for port, name in points.items()} == {
        25: "mx", 465: "submission-tls", 587: "submission", 2525: "submission-2525", 80: "http", 443: "https",
        None: "internal",
    }  # fmt: skip


def test_each_mail_port_has_a_router_and_a_service_of_its_own(stack: dict[str, Any]) -> None:
    found = labels(stack)
    routers = {label.split(".")[3] for label in found if label.startswith("traefik.tcp.routers.")}
    assert routers == {"mx", "submission", "submission-2525", "submission-tls"}
    listens = {
        "mx": "MAILFARM_MX_LISTEN",
        "submission": "MAILFARM_SUBMISSION_STARTTLS",
        "submission-2525": "MAILFARM_SUBMISSION_STARTTLS",
        "submission-tls": "MAILFARM_SUBMISSION_TLS",
    }
    for name in routers:
        assert found[f"traefik.tcp.routers.{name}.entrypoints"] == name
        assert found[f"traefik.tcp.routers.{name}.service"] == name
        assert found[f"traefik.tcp.services.{name}.loadbalancer.serverstransport"] == "mail@file"
        assert f"traefik.tcp.routers.{name}.tls" not in found
        port = found[f"traefik.tcp.services.{name}.loadbalancer.server.port"]
        environment = stack["services"][name.partition("-")[0]]["environment"]
        assert environment[listens[name]] == f"[::]:{port}"


def test_no_entry_point_would_warn(traefik: dict[str, Any]) -> None:
    """Traefik 3.7 warns at its start of every one that does not say these."""
    for name, point in traefik["entryPoints"].items():
        assert point["http"]["aliasHeadersStrategy"] == "delete", name
        assert set(point["http"]["encodedCharacters"].values()) == {False}, name
        assert "forwardedHeaders" not in point, name


def test_what_labels_name_is_in_the_file(stack: dict[str, Any]) -> None:
    dynamic = read(ROOT / "traefik" / "dynamic.yml")
    named = {value for value in labels(stack).values() if str(value).endswith("@file")}
    assert named == {"mail@file", "web@file"}
    assert dynamic["tcp"]["serversTransports"]["mail"]["proxyProtocol"] == {"version": 2}
    assert set(dynamic["http"]["middlewares"]["web"]["chain"]["middlewares"]) <= set(dynamic["http"]["middlewares"])


# --- the stores ------------------------------------------------------------------------------------------------------
class RoleRedis(Redis):
    """A real Redis with the stack's file and users for a role, its folders moved to ours."""

    def __init__(self, folder: Path, role: str) -> None:
        super().__init__(folder)
        acl, secret = folder / "users.acl", folder / "redis_password"
        secret.write_text("a password\n")
        start = (STACK / "redis-start").read_text("utf-8").replace("/tmp/users.acl", str(acl))
        start = start.replace("/run/secrets/redis_password", str(secret)).replace("exec redis-server", "exec true")
        subprocess.run(["sh", "-c", start, "sh", role], check=True)
        assert "a password" not in acl.read_text("utf-8")
        lines = (STACK / f"redis-{role}.conf").read_text("utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(("bind ", "port ", "dir ", "aclfile "))]
        moved = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", f"aclfile {acl}", ""]
        self.file = folder / "redis.conf"
        self.file.write_text("\n".join([*kept, *moved]))

    def start(self) -> None:
        self._run(["redis-server", str(self.file)])
        self._until(lambda: "PONG" in cli_of(self, "health", "any", "ping"))


@pytest.fixture
def role_redis(component: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RoleRedis]:
    component("redis-server")
    with RoleRedis(tmp_path, request.param) as server:
        yield server


@pytest.mark.parametrize("role_redis", ["queue"], indirect=True)
def test_what_the_queue_has_said_yes_to_is_there_after_a_crash(role_redis: RoleRedis) -> None:
    """Redis reads its file again as the default user, and leaves out each transaction that this one may not do."""
    script = "redis.call('set', KEYS[1], '1') redis.call('xadd', KEYS[2], '*', 'a', 'b') return 'done'"
    for number in range(5):
        said = cli_of(role_redis, "mailfarm", "a password", "eval", script, "2", f"k{number}", f"s{number}")
        assert said.strip() == "done"
    role_redis.kill()
    role_redis.start()
    assert cli_of(role_redis, "mailfarm", "a password", "dbsize").strip() == "10"


def cli_of(server: Redis, user: str, password: str, *words: str) -> str:
    command = ["redis-cli", "-p", str(server.port), "--no-auth-warning", "--user", user, "--pass", password, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("role_redis", ["queue", "cache"], indirect=True)
def test_redis_reads_its_file_and_lets_nobody_do_too_much(
    role_redis: RoleRedis, request: pytest.FixtureRequest
) -> None:
    role = request.node.callspec.params["role_redis"]
    assert "PONG" in cli_of(role_redis, "health", "any", "ping")
    assert "NOPERM" in cli_of(role_redis, "health", "any", "get", "x")
    assert (
        "NOAUTH"
        in subprocess.run(
            ["redis-cli", "-p", str(role_redis.port), "get", "x"], capture_output=True, text=True, check=False
        ).stdout
    )
    assert "WRONGPASS" in cli_of(role_redis, "mailfarm", "another", "ping")
    assert "PONG" in cli_of(role_redis, "mailfarm", "a password", "ping")
    assert "redis_version" in cli_of(role_redis, "mailfarm", "a password", "info")
    if role == "cache":
        assert "NOPERM" not in cli_of(role_redis, "mailfarm", "a password", "pubsub", "numsub", "mailfarm:bus:x")
        assert "NOPERM" not in cli_of(role_redis, "mailfarm", "a password", "pubsub", "numpat")
    for forbidden in ("flushall", "keys *", "acl list", "config set appendfsync no", "shutdown"):
        assert "NOPERM" in cli_of(role_redis, "mailfarm", "a password", *forbidden.split()), forbidden
    if role == "queue":
        assert "always" in cli_of(role_redis, "mailfarm", "a password", "config", "get", "appendfsync")
        assert "yes" in cli_of(role_redis, "mailfarm", "a password", "config", "get", "oom-score-adj")
        assert "noeviction" in cli_of(role_redis, "mailfarm", "a password", "info", "memory")
    else:
        assert "volatile-ttl" in cli_of(role_redis, "mailfarm", "a password", "info", "memory")
        assert "NOPERM" in cli_of(role_redis, "mailfarm", "a password", "set", "other", "1")


def test_postgres_reads_its_file(component: Callable[[str], Path], postgres: Postgres) -> None:
    """Every name and value is one that this PostgreSQL knows."""
    file = postgres.folder / "stack.conf"
    shutil.copy(STACK / "postgresql.conf", file)
    command = [component("postgres"), "-D", postgres.data, "-c", f"config_file={file}", "-C", "synchronous_commit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, user=postgres.user, cwd="/")
    assert (done.stdout.strip(), done.returncode) == ("on", 0), done.stderr


# --- the way to the Swarm --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """stack/swarm_api.py before a socket that is not there: nothing gets further than its own judgement."""
    port = free_port()
    nowhere = tmp_path_factory.mktemp("gate") / "none.sock"
    process = subprocess.Popen([sys.executable, STACK / "swarm_api.py", nowhere, str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
        yield port
    finally:
        process.terminate()
        assert process.wait(20) == 0


def asked(port: int, method: str, target: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, target, skip_host=True)
        connection.putheader("Host", "swarm-api")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_what_traefik_asks_is_passed_on(gate: int) -> None:
    for target in (
        "/_ping",
        "/v1.41/version",
        "/v1.41/info",
        "/v1.56/services?status=true",
        "/v1.41/tasks?filters=%7B%22desired-state%22%3A%7B%22running%22%3Atrue%7D%7D",
        "/v1.41/networks?filters=%7B%22scope%22%3A%7B%22swarm%22%3Atrue%7D%7D",
        "/v1.41/nodes/myp8ybkuj7jx9qndgga4pf5qp",
    ):
        assert asked(gate, "GET", target) == 502, target  # allowed; the socket is not there
    assert asked(gate, "HEAD", "/_ping") == 502
    assert asked(gate, "GET", "/healthz") == 502  # it asks the engine, not only itself


def test_of_containers_nothing_is_told() -> None:
    """Traefik needs labels, networks and states. The rest of every stack, with what somebody put into an environment,
    is not for the process that faces the internet."""
    found = importlib.util.spec_from_file_location("swarm_api", STACK / "swarm_api.py")
    assert found
    assert found.loader
    swarm_api = importlib.util.module_from_spec(found)
    found.loader.exec_module(swarm_api)
    container = {"Image": "x", "Env": ["PASSWORD=hunter2"], "Args": ["--key", "hunter2"], "Command": ["hunter2"]}
    template = {"ContainerSpec": container, "Networks": [{"Target": "n1"}], "ForceUpdate": 0}
    plain = {"Name": "mailfarm_mx", "Labels": {"traefik.enable": "true"}, "EndpointSpec": {"Mode": "dnsrr"}}
    spec = {**plain, "TaskTemplate": template}
    services = [{"ID": "s1", "Spec": spec, "PreviousSpec": spec, "Endpoint": {"VirtualIPs": None}}]
    tasks = [{"ID": "t1", "Spec": template, "NetworksAttachments": [{"Addresses": ["10.87.0.4/23"]}], "Slot": 1}]
    quiet = {**template, "ContainerSpec": {}}
    told = json.loads(swarm_api.without_containers(json.dumps(services).encode()))
    assert told == [
        {**services[0], "Spec": {**plain, "TaskTemplate": quiet}, "PreviousSpec": {**plain, "TaskTemplate": quiet}}
    ]
    assert json.loads(swarm_api.without_containers(json.dumps(tasks).encode())) == [{**tasks[0], "Spec": quiet}]
    assert json.loads(swarm_api.without_containers(b'{"message": "no manager"}')) == {"message": "no manager"}


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1.41/containers/json",
        "/v1.41/services/create",
        "/v1.41/services/abc",
        "/v1.41/secrets",
        "/v1.41/configs",
        "/v1.41/swarm",
        "/v1.41/swarm/unlockkey",
        "/v1.41/nodes",
        "/v1.41/nodes/abc/../../secrets",
        "/v1.41/nodes/abc/update",
        "/v1.41/version/",
        "/V1.41/version",
        "/v1.41/%76ersion",
        "/v1.41/version?x=(1)",
        "http://other/v1.41/version",
        "http://[::1/v1.41/version",
        "http://other/healthz",
        "/v1.41/healthz",
        "/healthz?x=1",
        "/v1.41/version#x",
        "/images/json",
        "/v1.41/exec/abc/start",
    ],
)
def test_all_else_is_refused(gate: int, target: str) -> None:
    assert asked(gate, "GET", target) == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"])
def test_nothing_can_be_changed(gate: int, method: str) -> None:
    assert asked(gate, method, "/v1.41/services") == 501


def test_a_request_with_a_body_is_refused(gate: int) -> None:
    assert asked(gate, "GET", "/v1.41/services", **{"Content-Length": "5"}) == 400
    assert asked(gate, "GET", "/v1.41/services", **{"Transfer-Encoding": "chunked"}) == 400
