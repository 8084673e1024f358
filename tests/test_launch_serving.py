"""What is told to clusters about the server: its flags, its numbers, its places."""

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("fastapi")

from serving import SIZES  # noqa: E402

from prompt_jax.cli.serving import _serve  # noqa: E402
from prompt_jax.serve import Engine, Store
from prompt_jax.serve.catalog import Catalog
from prompt_jax.serve.http.auth import OPEN, ROUTES
from prompt_jax.serve.http.metrics import Metrics
from prompt_jax.serve.http.run import SLACK

PLACE = Path(__file__).parent.parent / "launch" / "serving"
KSERVE = ("minReplicas", "maxReplicas", "autoScaling", "timeout")
"""Fields of a predictor that a pod has not."""
FLAGS = {f"--{name.replace('_', '-')}" for name in inspect.signature(_serve).parameters}


def parts(name):
    return list(yaml.safe_load_all((PLACE / name).read_text()))


def check_container(container, volumes):
    """Flags, probes and mounts against each other."""
    given = {flag: value for flag, _, value in (a.partition("=") for a in container["args"])}
    assert given.keys() <= FLAGS
    assert given["--host"] == "0.0.0.0" and given["--keys"]
    port = int(given["--port"])
    assert port == container["ports"][0]["containerPort"]
    for probe, asked in container.items():
        if probe.endswith("Probe"):
            where = asked["httpGet"]
            assert ROUTES["GET", where["path"]] is OPEN
            assert where["port"] in (port, container["ports"][0].get("name"))
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert any(given["--store"] == mount for mount in mounts)
    assert any(given["--keys"].startswith(f"{mount}/") for mount in mounts)
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in volumes}


def test_kubernetes():
    deployment, service, budget = parts("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    check_container(pod["containers"][0], pod["volumes"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    assert service["spec"]["ports"][0]["targetPort"] == pod["containers"][0]["ports"][0]["name"]
    given = dict(each.partition("=")[::2] for each in pod["containers"][0]["args"])
    seconds = int(given["--drain-seconds"]) + int(given["--timeout"]) + SLACK
    assert pod["terminationGracePeriodSeconds"] > seconds
    assert pod["securityContext"]["runAsNonRoot"]
    own = pod["containers"][0]["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
    scraped = deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert f"--metrics-port={scraped}" in pod["containers"][0]["args"]
    assert int(scraped) == pod["containers"][0]["ports"][1]["containerPort"]


def test_kserve():
    (made,) = parts("kserve.yaml")
    assert (made["apiVersion"], made["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    predictor = made["spec"]["predictor"]
    check_container(predictor["containers"][0], predictor["volumes"])


def schema_errors(resource):
    """What the schema of a resource of Kubernetes says of it; unknown fields are errors too."""
    validator = pytest.importorskip("kubernetes_validate")
    try:
        validator.validate(resource, "1.31", strict=True)
    except validator.ValidationError as error:
        return error.message
    return ""


def test_schemas_of_kubernetes():
    resources = [*parts("kubernetes.yaml"), *parts("autoscaling.yaml")]
    (service,) = parts("kserve.yaml")
    # Beside what is of KServe, a predictor is the spec of a pod.
    pod = {k: v for k, v in service["spec"]["predictor"].items() if k not in KSERVE}
    resources.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod})
    assert [schema_errors(resource) for resource in resources] == [""] * len(resources)
    deployment = resources[0]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    assert "livenessProb" in schema_errors(deployment)


def test_servers_are_added_where_rows_wait():
    scaler, rules = parts("autoscaling.yaml")
    deployment = parts("kubernetes.yaml")[0]
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], deployment["kind"])
    assert target["name"] == deployment["metadata"]["name"]
    assert scaler["spec"]["minReplicas"] == deployment["spec"]["replicas"]
    (rule,) = yaml.safe_load(rules["data"]["config.yaml"])["rules"]
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert list(rule["resources"]["overrides"]) == ["namespace", "pod"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("alerts.yaml", 8), ("grafana.json", 8), ("autoscaling.yaml", 2), ("kserve.yaml", 2)],
)
def test_every_number_is_one_that_the_server_has(name, count, tiny, tmp_path):
    with Engine(tiny, **SIZES) as engine:
        metrics = Metrics(Catalog(engine, Store(tmp_path)))
        for code in (200, 503):
            metrics.note("/v1/classify", [], code, 1.0)
        metrics.count("", 1, read=1)
        told = metrics.text().decode()
    known = set(re.findall(r"^([a-z0-9_:]+)", told, re.MULTILINE))
    known |= {"prompt_jax:device_memory_bytes"}  # The CPU does not tell it.
    assert "# TYPE prompt_jax:device_memory_bytes gauge" in told
    text = (PLACE / name).read_text()
    used = set(re.findall(r'__name__=\\?"([^"\\]+)', text))
    assert len(used) >= count and used <= known, used - known
    for label in re.findall(r"\b(code|prompt|route)(?==~?\\?\")|by \((code|prompt|route)\)", text):
        assert f'{label[0] or label[1]}="' in told


def test_queries_are_promql():
    parser = pytest.importorskip("promql_parser")
    (rules,) = (group["rules"] for group in parts("alerts.yaml")[0]["spec"]["groups"])
    panels = json.loads((PLACE / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    # Grafana puts the width of its picture in place of this.
    queries = [query.replace("$__rate_interval", "5m") for query in queries]
    for query in [*queries, *(rule["expr"] for rule in rules)]:
        parser.parse(query)
    assert len(queries) >= 10 and len(rules) >= 10


SERIES = """
evaluation_interval: 1m
rule_files: [rules.yaml]
tests:
  - interval: 1m
    input_series:
      - {series: '{__name__="prompt_jax:store_lost"}', values: "0 0 0 1 1 1"}
      - {series: '{__name__="prompt_jax:prompts_poisoned"}', values: "0 0 1 1 1 1"}
      - series: '{__name__="prompt_jax:request_failure_total", code="503", route="/v1/classify"}'
        values: 0+60x30
      - series: '{__name__="prompt_jax:request_success_total", code="200", route="/v1/classify"}'
        values: 0+600x30
    alert_rule_test:
      - {eval_time: 1m, alertname: PromptJaxPoisoned}
      - eval_time: 2m
        alertname: PromptJaxPoisoned
        exp_alerts: [{exp_labels: {severity: page}}]
      - {eval_time: 3m, alertname: PromptJaxStoreLost}
      - eval_time: 5m
        alertname: PromptJaxStoreLost
        exp_alerts: [{exp_labels: {severity: page}}]
      - eval_time: 20m
        alertname: PromptJaxErrs
        exp_alerts: [{exp_labels: {severity: page}}]
      - {eval_time: 20m, alertname: PromptJaxRefusesRequests}
"""
"""What promtool makes of the alerts when the server says this."""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_alerts_by_promtool(tmp_path):
    (rules,) = parts("alerts.yaml")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules["spec"]))
    test = yaml.safe_load(SERIES)
    annotations = {
        rule["alert"]: rule["annotations"] for rule in rules["spec"]["groups"][0]["rules"]
    }
    for case in test["tests"][0]["alert_rule_test"]:
        for alert in case.get("exp_alerts", ()):
            alert["exp_annotations"] = annotations[case["alertname"]]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "test.yaml"]):
        run = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def test_the_dashboard():
    made = json.loads((PLACE / "grafana.json").read_text())
    ids = [panel["id"] for panel in made["panels"]]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]}
    assert len(set(ids)) == len(ids) == len(places) == 10
    assert all(target["expr"] for panel in made["panels"] for target in panel["targets"])


def test_what_was_not_run_is_told():
    for name in ("kubernetes.yaml", "kserve.yaml", "autoscaling.yaml"):
        words = re.sub(r"[\s#]+", " ", (PLACE / name).read_text())
        assert "Not applied: no cluster was at hand" in words
