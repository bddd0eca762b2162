"""The files for containers, Kubernetes, Prometheus and Grafana agree with each other and with the server.

No image is built here: that needs a container engine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bert_serving.client.flag_sources import PREFIX, parse_command
from bert_serving.client.protocol import ERROR_TYPES
from bert_serving.server.cli.join import get_parser as get_join_parser
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.options import OPTIONS
from bert_serving.server.http import metrics
from bert_serving.server.http.concurrency_limit import ConcurrencyLimiter
from bert_serving.server.http.route_table import ENCODING_ROUTES

ROOT = Path(__file__).resolve().parents[2]
HISTORY = Path(metrics.__file__).parent / "static" / "dashboard" / "js" / "history.js"
DOCKER, KUBERNETES = ROOT / "docker", ROOT / "deploy" / "kubernetes"
PORTS = {"requests": OPTIONS["port"].default, "results": OPTIONS["port_out"].default, "http": 8125}
DRAIN = OPTIONS["drain_timeout"].default


def set_by(variables: dict[str, str], parser: argparse.ArgumentParser, argv: list[str] | None = None) -> dict[str, Any]:
    """The values of the flags that variables and arguments set, by the name of the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", variables)
        parsed = parse_command(parser, argv or [])
    return {PREFIX + name.upper(): getattr(parsed.args, name) for name in parsed.sources}


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def read(path: Path) -> Any:
    """The document in a YAML or JSON file; a list if there are several."""
    documents = list(yaml.safe_load_all(path.read_text()))
    return documents[0] if len(documents) == 1 else documents


def metric_names() -> set[str]:
    """All names that /metrics has."""

    class Quiet:
        """A service that has one worker, on a GPU, and a drift reference."""

        def status(self) -> dict[str, Any]:
            gpu = {"gpu_utilization": 0.5, "gpu_memory_used": 1, "gpu_memory_total": 2}
            worker = {"name": "worker-0.1", "device": "gpu: 0", "batches": 1, **gpu}
            return {"state": "ready", "workers": [worker], "drift": {}}

    made = metrics.Metrics(Quiet(), ConcurrencyLimiter(1, 1, 1))  # type: ignore[arg-type]
    made.init_labels("/encode")
    families = text_string_to_metric_families(made.render().decode())
    return {sample.name for family in families for sample in family.samples}


def used_metrics(text: str) -> set[str]:
    return set(re.findall(r"\bbert_serving_\w+", text))


# -- Grafana and Prometheus --------------------------------------------------------------------------------------------

BOARD = read(DOCKER / "grafana" / "bert-serving.json")


def test_the_board_asks_for_metrics_that_there_are() -> None:
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]
    queries += [variable["definition"] for variable in BOARD["templating"]["list"] if variable["type"] == "query"]
    used = used_metrics(" ".join(queries))
    assert used <= metric_names()
    in_no_panel = metric_names() - used
    derived = {name for name in in_no_panel if name.endswith(("_created", "_count", "_sum"))}
    assert in_no_panel - derived == set(), "metrics that no panel shows"


def test_the_board_and_the_dashboard_have_the_routes_that_encode() -> None:
    """Both show the latency of these routes alone, so a new route must be added to both."""
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]
    lists = re.findall(r'path=~"([^"]*)"', " ".join(queries))
    assert lists
    for paths in lists:
        assert set(paths.split("|")) == set(ENCODING_ROUTES), BOARD["title"]
    (script,) = re.findall(r"ENCODING_PATHS = new Set\(\[(.*?)\]\)", HISTORY.read_text(), re.DOTALL)
    assert set(re.findall(r"'([^']*)'", script)) == set(ENCODING_ROUTES), HISTORY


def test_the_board_is_well_formed() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert BOARD["uid"] == "bert-serving"
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert all("$job" in target["expr"] for target in panel["targets"]), panel["title"]


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    rules = [rule for group in read(DOCKER / "prometheus-rules.yml")["groups"] for rule in group["rules"]]
    assert used_metrics(" ".join(rule["expr"] for rule in rules)) <= metric_names()
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}
        for types in re.findall(r'type=~?"([\w|]+)"', rule["expr"]):
            assert set(types.split("|")) <= {*ERROR_TYPES, "data", "system"}


def test_grafana_finds_its_board_and_prometheus() -> None:
    services = read(DOCKER / "compose.yml")["services"]
    (source,) = read(DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read(DOCKER / "grafana" / "provisioning" / "dashboards" / "bert-serving.yml")["providers"]
    mounted = {target: origin for origin, target in map(split_volume, services["grafana"]["volumes"])}
    board = f"{provider['options']['path']}/bert-serving.json"
    assert mounted[board] == "./grafana/bert-serving.json"
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == board


def split_volume(volume: str) -> tuple[str, str]:
    """Where it comes from, and where it is mounted: of ``FROM:TO`` or ``FROM:TO:ro``."""
    origin, target = volume.removesuffix(":ro").rsplit(":", 1)
    return origin, target


# -- compose -----------------------------------------------------------------------------------------------------------


def test_compose_refers_to_what_there_is() -> None:
    compose = read(DOCKER / "compose.yml")
    for name, service in compose["services"].items():
        assert service.get("image") or service.get("build"), name
        for origin, _ in map(split_volume, service["volumes"]):
            if origin.startswith("."):
                assert (DOCKER / origin).exists(), origin
            elif not origin.startswith("$"):
                assert origin in compose["volumes"], origin
        for needed in service.get("depends_on", []):
            assert needed in compose["services"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), "open to this machine only"
    assert "no-model" in compose["volumes"]
    build = compose["services"]["server"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()


def test_compose_runs_the_server_as_it_wants_to_be_run() -> None:
    server = read(DOCKER / "compose.yml")["services"]["server"]
    assert set_by(server["environment"], get_args_parser()).keys() == server["environment"].keys()
    assert {int(port.rsplit(":")[-1]) for port in server["ports"]} == set(PORTS.values())
    assert "/readyz" in server["healthcheck"]["test"][-1]
    compile(server["healthcheck"]["test"][-1], "health check", "exec")
    assert int(server["stop_grace_period"].removesuffix("s")) > DRAIN
    (scrape,) = read(DOCKER / "prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == [f"server:{PORTS['http']}"]
    assert "metrics_path" not in scrape, "/metrics is what Prometheus asks for by itself"
    assert read(DOCKER / "prometheus.yml")["rule_files"] == ["prometheus-rules.yml"]


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_is_made_of_what_there_is(name: str) -> None:
    text = (DOCKER / name).read_text()
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in lines:
        words = [word for word in line.split() if not word.startswith("--")]
        if words[:1] == ["COPY"] and "--from" not in line:
            for origin in words[1:-1]:
                assert (ROOT / origin).exists(), origin
                assert f"!{origin}" in ignored, f"{origin} does not reach the build: .dockerignore"
    (exposed,) = [line.split()[1:] for line in lines if line.startswith("EXPOSE")]
    assert {int(port) for port in exposed} == set(PORTS.values())
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert "HTTP_PORT=8125" in text
    check = json.loads(re.search(r"HEALTHCHECK.*?CMD (\[.*?\])$", re.sub(r"\\\n\s*", " ", text), re.M)[1])  # type: ignore[index]
    compile(check[-1], "health check", "exec")
    assert "/readyz" in check[-1]
    assert '"./server[$EXTRAS]"' in text
    extras = re.search(r'^ARG EXTRAS="([\w,-]+)"$', text, re.M)[1].split(",")  # type: ignore[index]
    assert set(extras) <= extras_of_the_server()
    makefile = (ROOT / "Makefile").read_text()
    model = re.search(r"^MODEL := (\S+)$", makefile, re.M)[1]  # type: ignore[index]
    assert f'ARG DEFAULT_MODEL="{model}"' in text
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.M)
    assert f"docker/entrypoint.sh /usr/local/bin/{entry}" in text


def extras_of_the_server() -> set[str]:
    return set(re.findall(r"^([\w-]+) = \[", (ROOT / "server" / "pyproject.toml").read_text(), re.M))


def test_tensorflow_is_pinned_for_both_processors() -> None:
    """tensorflow-cpu has no wheels for Linux on ARM."""
    pins = re.findall(
        r"^(tensorflow(?:-cpu)?)==([\d.]+); platform_machine ([!=]= 'aarch64')$",
        (ROOT / "requirements" / "test.txt").read_text(),
        re.M,
    )
    assert {(name, marker) for name, _, marker in pins} == {
        ("tensorflow-cpu", "!= 'aarch64'"),
        ("tensorflow", "== 'aarch64'"),
    }
    assert len({version for _, version, _ in pins}) == 1


def test_the_workflow_builds_and_checks_each_image() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = dict(re.findall(r"^IMAGE_(\w+) := (.*)$", makefile, re.M))
    tags = {"full": "bert-as-service", "small": "bert-as-service:small", "gpu": "bert-as-service:gpu"}
    assert commands.keys() == tags.keys()
    for image, command in commands.items():
        words = command.split()
        assert words[words.index("-t") + 1] == tags[image]
        assert (ROOT / words[words.index("-f") + 1]).is_file()
        extras = re.search(r"EXTRAS=(\S+)", command)
        assert extras is None or set(extras[1].split(",")) <= extras_of_the_server()
    workflow = read(ROOT / ".github" / "workflows" / "images.yml")
    image = workflow["jobs"]["image"]
    assert image["strategy"]["matrix"]["image"] == list(tags)
    assert image["strategy"]["matrix"]["processor"] == ["amd64", "arm64"]
    steps = [step.get("run", "") for step in image["steps"]]
    assert "make image IMAGE=${{ matrix.image }}" in steps
    assert 'docker/check.sh "bert-as-service:$TAG"' in steps
    pushes = [step for step in image["steps"] if "docker push" in step.get("run", "")]
    assert [step["if"] for step in pushes] == ["startsWith(github.ref, 'refs/tags/')"]
    assert workflow["permissions"] == {"contents": "read"}


#: Stands for ``docker``: one container, whose HTTP port is that of the test.
FAKE_DOCKER = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
"run "*) echo container ;;
*Health*) echo "$HEALTH" ;;
*ExitCode*) echo "$EXIT_CODE" ;;
port*) echo "127.0.0.1:$PORT" ;;
esac
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("health", "reply", "exit_code", "found"),
    [
        ("healthy", '{"id":"","status":200}', "0", "bert-as-service serves, and stops with exit code 0"),
        ("starting", "", "0", "bert-as-service did not become healthy"),
        ("healthy", '{"status":500}', "0", 'bert-as-service replied {"status":500}'),
        ("healthy", '{"status":200}', "137", "bert-as-service ended with exit code 137"),
    ],
)
def test_an_image_is_checked(tmp_path: Path, health: str, reply: str, exit_code: str, found: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_: object) -> None:
            pass

    command = tmp_path / "docker"
    command.write_text(FAKE_DOCKER)
    command.chmod(0o755)
    calls = tmp_path / "calls"
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 30
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        values = {"CALLS": str(calls), "HEALTH": health, "EXIT_CODE": exit_code, "PORT": str(server.server_port)}
        env = {**os.environ, **values, "CHECK_TRIES": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        script = [str(DOCKER / "check.sh"), "bert-as-service"]
        done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=60)
        assert found in done.stdout + done.stderr
        assert (done.returncode == 0) == (found.endswith("exit code 0"))
        assert calls.read_text().splitlines()[-1] == "rm --force container"
        if health == "healthy":
            thread.join(30)


def test_the_two_images_differ_in_what_computes_only() -> None:
    def instructions(name: str) -> set[str]:
        return {line for line in (DOCKER / name).read_text().splitlines() if not line.startswith("#")}

    expected = ("ARG EXTRAS", "image.description", "HTTP_PORT=8125", "NVIDIA_", "gcc")
    for line in instructions("Dockerfile") ^ instructions("Dockerfile.gpu"):
        assert any(word in line for word in expected), line


@pytest.mark.parametrize(
    ("linter", "files"),
    [
        ("hadolint", ["docker/Dockerfile", "docker/Dockerfile.gpu"]),
        (
            "shellcheck",
            ["docker/entrypoint.sh", "docker/check.sh", "docs/site/push.sh", "example/http_call.sh", ".ci/run"],
        ),
    ],
)
def test_linters_find_nothing(linter: str, files: list[str]) -> None:
    command = Path(sys.executable).parent / linter
    if not command.is_file():
        pytest.skip(f"{linter} has no wheel for this machine")
    done = subprocess.run([command, *files], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A folder with a ``bert-serving-start`` that says how it was called, and a model."""
    command = tmp_path / "bin" / "bert-serving-start"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv | grep ^BERT_SERVING_ | sort\n')
    command.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "empty").mkdir()
    shutil.copy(ROOT / "LICENSE", tmp_path / "model" / "bert_config.json")
    return tmp_path


def enter(container: Path, *args: str, model: str = "empty", **variables: str) -> list[str]:
    """What the image runs for ``docker run IMAGE args``: the arguments of the server."""
    folders = {"MODEL_DIR": str(container / model), "TMPDIR": str(container)}
    env = {"PATH": f"{container / 'bin'}:{os.environ['PATH']}", **folders, **variables}
    done = subprocess.run(
        ["sh", str(DOCKER / "entrypoint.sh"), *args],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [line for line in done.stdout.splitlines() if line]


def options(container: Path, *args: str, model: str = "empty", **variables: str) -> dict[str, Any]:
    """What the server of ``docker run IMAGE args`` is told, by the name of the variable."""
    lines = enter(container, *args, model=model, **variables)
    in_environment = dict(line.split("=", 1) for line in lines if line.startswith(PREFIX))
    return set_by(in_environment, get_args_parser(), [line for line in lines if not line.startswith(PREFIX)])


def test_the_image_takes_a_number_of_workers_as_in_1_10(container: Path) -> None:
    model = str(container / "model")
    found = options(container, "4", "-max_seq_len", "64", model="model")
    assert found == {
        "BERT_SERVING_NUM_WORKER": 4,
        "BERT_SERVING_MAX_SEQ_LEN": 64,
        "BERT_SERVING_MODEL_DIR": model,
        "BERT_SERVING_HTTP_PORT": 8125,
    }


def test_the_image_serves_what_is_mounted_at_model(container: Path) -> None:
    script = (DOCKER / "entrypoint.sh").read_text().replace("/model}", f"{container / 'model'}}}")
    env = {
        "PATH": f"{container / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": str(container),
    }  # no MODEL_DIR, as in the image
    done = subprocess.run(["sh", "-c", script, "sh", "1"], env=env, capture_output=True, text=True, timeout=120)
    expected = ["-num_worker", "1", "BERT_SERVING_HTTP_PORT=8125", f"BERT_SERVING_MODEL_DIR={container / 'model'}"]
    assert done.stdout.split() == expected, done.stderr


def test_the_image_takes_options_and_commands(container: Path) -> None:
    assert options(container) == {"BERT_SERVING_HTTP_PORT": 8125}, "no model is mounted: the default one"
    found = options(container, "-num_worker", "2", "-model_dir", "/other", "-http_port", "9000", model="model")
    assert found == {
        "BERT_SERVING_NUM_WORKER": 2,
        "BERT_SERVING_MODEL_DIR": "/other",
        "BERT_SERVING_HTTP_PORT": 9000,
    }, "what is given counts"
    assert options(container, "-cpu", HTTP_PORT="80") == {"BERT_SERVING_HTTP_PORT": 80, "BERT_SERVING_CPU": True}
    given = {"BERT_SERVING_MODEL_DIR": "/other", "BERT_SERVING_HTTP_PORT": "9000"}
    assert options(container, model="model", **given) == {**given, "BERT_SERVING_HTTP_PORT": 9000}
    assert options(container, BERT_SERVING_HTTP_PORT="tcp://10.0.0.1:80") == {"BERT_SERVING_HTTP_PORT": 8125}
    assert enter(container, "echo", "hello there") == ["hello there"]
    assert os.access(DOCKER / "entrypoint.sh", os.X_OK)


def test_the_image_serves_as_sagemaker_wants_it(container: Path) -> None:
    model = str(container / "model")
    script = (DOCKER / "entrypoint.sh").read_text().replace("=/opt/ml/model", f"={model}")
    env = {"PATH": f"{container / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(container), "HTTP_PORT": "8125"}
    done = subprocess.run(
        ["sh", "-c", script, "sh", "serve"], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["BERT_SERVING_HTTP_PORT=8080", f"BERT_SERVING_MODEL_DIR={model}"]
    found = options(container, "serve", "-num_worker", "2", SAGEMAKER_BIND_TO_PORT="8081")
    assert found == {"BERT_SERVING_NUM_WORKER": 2, "BERT_SERVING_HTTP_PORT": 8081}


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
@pytest.mark.parametrize(
    ("args", "variables"),
    [
        ((), {"HTTP_PORT": "PORT"}),
        ((), {"BERT_SERVING_HTTP_PORT": "PORT"}),
        (("serve",), {"SAGEMAKER_BIND_TO_PORT": "PORT"}),
        (("2", "-http_port", "PORT"), {}),
        (("--http-port=PORT", "-max_seq_len", "64"), {}),
    ],
)
def test_the_health_check_asks_the_port_that_is_used(
    container: Path, name: str, args: tuple[str, ...], variables: dict[str, str]
) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    text = re.sub(r"\\\n\s*", " ", (DOCKER / name).read_text())
    check = json.loads(re.search(r"HEALTHCHECK.*?CMD (\[.*?\])$", text, re.M)[1])  # type: ignore[index]
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 60
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        port = str(server.server_port)
        given = {key: value.replace("PORT", port) for key, value in variables.items()}
        enter(container, *(arg.replace("PORT", port) for arg in args), **given)
        env = {**os.environ, "TMPDIR": str(container)}
        subprocess.run([sys.executable, *check[1:]], env=env, check=True, timeout=60)
        thread.join(60)
    assert asked == ["/readyz"]


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def test_kustomization_lists_manifests_that_there_are() -> None:
    for name in read(KUBERNETES / "kustomization.yaml")["resources"]:
        assert (KUBERNETES / name).is_file(), name


def test_the_deployment_of_machines_that_join() -> None:
    machines, service = read(KUBERNETES / "join.yaml")
    front = read(KUBERNETES / "deployment.yaml")
    pod = machines["spec"]["template"]
    (machine,) = pod["spec"]["containers"]
    assert machine["image"] == front["spec"]["template"]["spec"]["containers"][0]["image"]
    script = machine["args"][0].split("exec bert-serving-join ")[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", variables_of(machine))
        args, sources, _ = parse_command(get_join_parser(), shlex.split(script))
    assert sources.keys() == {"join_keys", "threads"}
    assert args.join_keys == "/tmp/keys"
    assert pod["spec"]["enableServiceLinks"] is False
    assert args.front == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert [port["port"] for port in service["spec"]["ports"]] == [5557, 5558]
    assert service["spec"]["selector"] == front["spec"]["selector"]["matchLabels"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= args.drain_timeout + 15
    mounts = {mount["name"]: mount["mountPath"] for mount in machine["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_deployment() -> None:
    deployment = read(KUBERNETES / "deployment.yaml")
    labels = deployment["spec"]["selector"]["matchLabels"]
    pod = deployment["spec"]["template"]
    assert labels.items() <= pod["metadata"]["labels"].items()
    (server,) = pod["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in server["ports"]} == PORTS
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert server[probe]["httpGet"] == {"path": path, "port": "http"}
    startup = server["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= OPTIONS["start_timeout"].default
    found = set_by(variables_of(server), get_args_parser())
    assert found.keys() == variables_of(server).keys()
    assert pod["spec"]["terminationGracePeriodSeconds"] >= found["BERT_SERVING_DRAIN_TIMEOUT"] + 15
    assert pod["spec"]["enableServiceLinks"] is False
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001
    assert server["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert mounts == {"cache": "/cache", "sockets": "/tmp"}
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == set(mounts)
    annotations = pod["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == ("8125", "/metrics")


def test_the_services_lead_to_the_deployment() -> None:
    deployment = read(KUBERNETES / "deployment.yaml")
    services = read(KUBERNETES / "service.yaml")
    for service in services:
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == PORTS
    assert services[1]["spec"]["clusterIP"] == "None"
    selector = read(KUBERNETES / "disruption.yaml")["spec"]["selector"]
    assert selector == deployment["spec"]["selector"]


def test_pods_are_scaled_by_a_metric_that_there_is() -> None:
    deployment = read(KUBERNETES / "deployment.yaml")
    hpa, keda = read(KUBERNETES / "hpa.yaml"), read(KUBERNETES / "keda.yaml")
    target = hpa["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    assert keda["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (metric,) = hpa["spec"]["metrics"]
    (trigger,) = keda["spec"]["triggers"]
    used = {metric["pods"]["metric"]["name"], *used_metrics(trigger["metadata"]["query"])}
    assert used == {"bert_serving_queue_tokens"} <= metric_names()


# -- the dashboard's libraries -----------------------------------------------------------------------------------------


def test_the_vendored_libraries_are_those_of_the_lock_file() -> None:
    vendor = ROOT / "server" / "bert_serving" / "server" / "http" / "static" / "dashboard" / "vendor"
    wanted = read(ROOT / "plugin" / "dashboard" / "package.json")["dependencies"]["uplot"]
    locked = read(ROOT / "plugin" / "dashboard" / "package-lock.json")["packages"]["node_modules/uplot"]
    assert locked["version"] == wanted
    assert (
        (vendor / "uPlot.iife.min.js").read_text().startswith(f"/*! https://github.com/leeoniya/uPlot (v{wanted}) */")
    )
    assert "Permission is hereby granted" in (vendor / "uPlot.LICENSE").read_text()
