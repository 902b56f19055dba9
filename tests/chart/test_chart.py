"""What the rendered chart says: valid for old and new Kubernetes, with no right too many, and stable over versions."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpod_metrics import __version__
from kpod_metrics.cli import main
from kpod_metrics.collectors import registered
from kpod_metrics.settings import Setting, catalogue, load
from monitoring.alerts import ALERTS
from tests.helm import CHART, REPOSITORY, SCENARIOS, Chart, Object, leaves

OLDER, NEWEST = ("1.19", "1.28"), "1.37"
"""Releases of Kubernetes."""
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "SecurityContextConstraints"}
"""Kinds that Kubernetes itself does not have."""
SETTINGS = catalogue(list(registered()))


def test_lint(chart: Chart) -> None:
    for scenario in SCENARIOS:
        done = chart.run("lint", "--strict", "--values", scenario, chart.chart)
        assert not done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("version", [*OLDER, NEWEST])
def test_every_scenario_is_valid_kubernetes(version: str, chart: Chart, tmp_path: Path) -> None:
    files = []
    for scenario in SCENARIOS:
        rendered = chart.render("--values", scenario, "--kube-version", f"{version}.0")
        file = tmp_path / f"{scenario.stem}.yaml"
        file.write_text(yaml.safe_dump_all([found for found in rendered.objects if found["kind"] not in CUSTOM]))
        files.append(file)
    tool = [str(REPOSITORY / "scripts/kubernetes-validate"), *(["older"] if version == "1.19" else [])]
    command = [*tool, "--strict", "--kubernetes-version", version, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert not done.returncode, said[-2000:]
    assert "ERROR" not in said
    assert said.count(" passed for ") > 5 * len(files)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("config.poll_interval=5parsecs", "/config/poll_interval"),
        ("config.profil=standard", "'profil'"),
        ("config.collectors.disk.interval=often", "/config/collectors/disk/interval"),
        ("config.collectors.disc.enabled=true", "'disc'"),
        ("config.series_limit=0", "/config/series_limit"),
        ("config.discovery=dns", "/config/discovery"),
        ("config.discovery=null", "discovery"),
        ("monitor.kind=Both", "/monitor/kind"),
        ("image.tagg=1", "'tagg'"),
        ("image.repository=localhost/kpod-metrics:0.1.0", "/image/repository"),
        ("global.imagePullSecrets[0].named=x", "/global/imagePullSecrets/0"),
        ("updateStrategy.rollingUpdate.maxUnavailable=0", "/updateStrategy/rollingUpdate/maxUnavailable"),
        ("extraCapabilities={CAP_SYS_ADMIN}", "/extraCapabilities/0"),
        ("seccompProfile.type=Localhost", "seccompProfile.localhostProfile"),
        ("appArmorProfile.type=Localhost", "appArmorProfile.localhostProfile"),
        ("resources.limits.memory=lots", "/resources/limits/memory"),
        ("webConfig.probePort=70000", "/webConfig/probePort"),
        ("webConfig.key=a/b", "/webConfig/key"),
        ("webConfig.secretName=web,webConfig.probePort=9090", "webConfig.probePort: must differ from the metrics port"),
        ("networkPolicy.apiServerPorts={99999}", "/networkPolicy/apiServerPorts/0"),
    ],
)
def test_wrong_value_is_refused_by_name(value: str, named: str, chart: Chart) -> None:
    assert named in chart.refusal("--set", value)


def test_without_a_repository_it_says_how_to_get_the_image(chart: Chart) -> None:
    """Nothing is pulled from a place that nobody chose."""
    for values in ((), ("--set", "image.tag=latest"), ("--set", "global.imageRegistry=registry.example.org")):
        done = chart.run("template", "kpod-metrics", chart.chart, *values)
        assert done.returncode
        for said in (
            "image.repository: required",
            f"`make image` builds dist/kpod-metrics-{__version__}.oci.tar",
            *("kind load image-archive", "k3s ctr images import", "ctr -n k8s.io images import", "skopeo copy"),
            "--set image.repository=localhost/kpod-metrics",
        ):
            assert said in done.stderr


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ("", f"localhost/kpod-metrics:{__version__}"),
        ("image.tag=1.2", "localhost/kpod-metrics:1.2"),
        (f"image.digest=sha256:{'a' * 64},image.tag=1.2", f"localhost/kpod-metrics@sha256:{'a' * 64}"),
        ("global.imageRegistry=mirror:5000", f"mirror:5000/kpod-metrics:{__version__}"),
        ("global.imageRegistry=mirror/x,image.repository=r.example.org/team/kpod", f"mirror/x/team/kpod:{__version__}"),
        ("global.imageRegistry=mirror,image.repository=team/kpod", f"mirror/team/kpod:{__version__}"),
    ],
)
def test_image(values: str, image: str, chart: Chart) -> None:
    """Of the agents, and of `helm test`."""
    rendered = chart.render(*(("--set", values) if values else ()))
    assert rendered.container["image"] == image
    assert [one["image"] for one in rendered.one("Pod")["spec"]["containers"]] == [image]


def test_pull_secrets(chart: Chart) -> None:
    """A chart above this one has them for all; each once."""

    def given(values: str) -> list[list[Object] | None]:
        rendered = chart.render("--set", values)
        return [spec.get("imagePullSecrets") for spec in (rendered.pod["spec"], rendered.one("Pod")["spec"])]

    assert given("image.tag=x") == [None, None]
    assert given("imagePullSecrets[0].name=own") == [[{"name": "own"}]] * 2
    both = "global.imagePullSecrets={one,own},imagePullSecrets[0].name=own"
    assert given(both) == [[{"name": "one"}, {"name": "own"}]] * 2
    assert given("global.imagePullSecrets[0].name=one") == [[{"name": "one"}]] * 2


def test_service_monitor_needs_the_service(chart: Chart) -> None:
    assert "service.enabled" in chart.refusal("--set", "monitor.kind=ServiceMonitor,service.enabled=false")


def test_version_is_the_agents() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_every_value_is_used() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    for name in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        parts = name.split(".")
        # A template takes it, or all that it is in (toYaml).
        taken = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        assert any(re.search(rf"\.Values\.{re.escape(one)}\b(?!\.)", templates) for one in taken), name


EXAMPLES: dict[str, Any] = {
    **{
        key: f"value-of-{key}"
        for key in (
            "node_name",
            "cluster",
            "kubeconfig",
            "kubelet_ca",
            "kubelet_certificate",
            "otlp_ca",
            "web_config_file",
            "otlp_certificate",
            "otlp_key",
        )
    },
    **{key: f"/{key}" for key in ("cgroup_root", "kubelet_cgroup_root", "proc_root", "sys_root")},
    "listen": "0.0.0.0:9191",
    "kubelet_address": "10.0.0.1:10250",
    "kubelet_insecure": True,
    "profile": "custom",
    "discovery": "kubelet",
    "pod_selector": "app=web",
    "classic_histograms": False,
    "otlp_endpoint": "https://otel:4318/v1/metrics",
    "otlp_headers": {"authorization": "Bearer x"},
    "otlp_compression": "none",
    "log_level": "debug",
    "log_format": "json",
    "bpf_map_entries": 20000,
    "probe_listen": "0.0.0.0:9998",
    "web_max_connections": 50,
    "web_max_requests": 20,
    "series_limit": 1000000,
    "series_limit_total": 10000000,
    "pod_series_limit": 500,
    "pod_label_bytes_limit": 10000,
    "memory_limit": "256Mi",
}


def example(setting: Setting) -> Any:
    """A value that is not the default."""
    if setting.key in EXAMPLES:
        return EXAMPLES[setting.key]
    kind = setting.kind.schema["type"]
    return {"array": ["one", "two"], "boolean": False}.get(kind if isinstance(kind, str) else "", "7s")


def test_every_setting_of_the_agent_is_a_value(chart: Chart, tmp_path: Path) -> None:
    """All at once: given to helm, in the agent's configuration file as they were given, and known to the agent."""
    given: Object = {}
    for setting in SETTINGS:
        *groups, last = setting.path
        at = given
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = example(setting)
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": given}))
    rendered = chart.render("--values", values)
    assert rendered.config == given
    assert not {"KPOD_NODE_NAME", "KPOD_KUBELET_ADDRESS"} & {one["name"] for one in rendered.container.get("env") or []}
    flat = {setting.key: None for setting in SETTINGS}
    assert len(list(leaves(given))) == len(flat)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_the_agent_takes_every_scenarios_configuration(scenario: Path, chart: Chart, tmp_path: Path) -> None:
    rendered = chart.render("--values", scenario)
    config = {key: value for key, value in rendered.config.items() if key != "kubelet_ca"}  # no such file here
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    loaded, warnings = load({}, {}, str(file), list(registered()))
    assert loaded.profile == rendered.config["profile"]
    assert not warnings


def test_arguments_are_the_agents(chart: Chart, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = chart.render().container["args"]
    assert main(arguments) == 2
    assert "'/etc/kpod-metrics/config.yaml' cannot be read" in capsys.readouterr().err


def test_the_documented_commands(chart: Chart) -> None:
    """`port-forward ds/kpod-metrics 9090:9090` in namespace kpod-metrics."""
    rendered = chart.render()
    assert rendered.one("DaemonSet")["metadata"]["name"] == "kpod-metrics"
    assert {found["metadata"].get("namespace", "kpod-metrics") for found in rendered.objects} == {"kpod-metrics"}
    assert [port["containerPort"] for port in rendered.container["ports"]] == [9090]


def test_default_install_has_the_fewest_rights(chart: Chart) -> None:
    rendered = chart.render()
    spec, container = rendered.pod["spec"], rendered.container
    kinds = sorted(found["kind"] for found in rendered.objects)
    assert kinds == ["ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "Pod", "Service", "ServiceAccount"]
    assert rendered.one("ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    ]
    assert [port["containerPort"] for port in container["ports"]] == [9090]
    assert not any("hostPort" in port for port in container["ports"])
    assert [port["port"] for port in rendered.one("Service")["spec"]["ports"]] == [9090]
    assert "hostNetwork" not in spec
    assert "hostIPC" not in spec
    assert "secret" not in rendered.text.lower()
    hosts = [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert [volume["hostPath"] for volume in hosts] == [{"path": "/sys/fs/cgroup", "type": "Directory"}]
    assert all(mount["readOnly"] is True for mount in container["volumeMounts"])
    context = container["securityContext"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_PTRACE"]}
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"memory": "128Mi"},
    }
    account = rendered.one("ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert rendered.one("ClusterRoleBinding")["subjects"] == [
        {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "kpod-metrics"}
    ]


def test_web_configuration(chart: Chart) -> None:
    """A secret is mounted, and the kubelet's probes have a port for which they need show nothing."""
    rendered = chart.render("--values", CHART / "ci" / "web-config-values.yaml")
    container, volumes = rendered.container, rendered.pod["spec"]["volumes"]
    assert [volume["secret"] for volume in volumes if "secret" in volume] == [
        {"secretName": "kpod-metrics-web", "defaultMode": 0o400}
    ]
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "web"]
    assert mount["readOnly"] is True
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["KPOD_WEB_CONFIG_FILE"] == f"{mount['mountPath']}/web-config.yaml"
    assert variables["KPOD_PROBE_LISTEN"] == ":9091"
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"metrics": 9090, "probes": 9091}
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "probes"}
    assert container["readinessProbe"]["initialDelaySeconds"] == 5, "asked once the first cycle is over"
    [endpoint] = rendered.one("ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["port"]) == ("https", "metrics")
    assert endpoint["tlsConfig"]["serverName"] == "kpod-metrics"
    assert endpoint["basicAuth"]["username"] == {"name": "scraper", "key": "user"}
    # Only the metrics port is for the network; the kubelet is on the node.
    assert [rule["ports"] for rule in rendered.one("NetworkPolicy")["spec"]["ingress"]] == [
        [{"port": "metrics", "protocol": "TCP"}]
    ]
    assert rendered.one("Pod")["spec"]["containers"][0]["command"][-1] == "http://kpod-metrics.kpod-metrics.svc:9091"


@pytest.mark.parametrize(
    ("values", "probe"),
    [
        ("webConfig.probePort=0", {"port": "metrics", "scheme": "HTTPS"}),
        ("webConfig.probePort=0,webConfig.tls=false", {"port": "metrics"}),
        ("webConfig.tls=false", {"port": "probes"}),
        ("config.listen=[::]:9999", {"port": "probes"}),
    ],
)
def test_probes_of_a_web_configuration(values: str, probe: Object, chart: Chart) -> None:
    container = chart.render("--set", f"webConfig.secretName=web,{values}").container
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz"} | probe
    variables = {one["name"]: one.get("value") for one in container["env"]}
    expected = None if probe["port"] == "metrics" else "[::]:9091" if "listen" in values else ":9091"
    assert variables.get("KPOD_PROBE_LISTEN") == expected


@pytest.mark.parametrize(
    ("values", "rules"),
    [
        ("config.discovery=kubelet", [{"apiGroups": [""], "resources": ["nodes/pods"], "verbs": ["get"]}]),
        (
            "config.discovery=kubelet,rbac.nodesProxy=true",
            [{"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["get"]}],
        ),
        ("config.discovery=cgroup", None),
        ("rbac.nodesProxy=true", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]),
    ],
)
def test_rights_of_each_discovery(values: str, rules: list[Object] | None, chart: Chart) -> None:
    rendered = chart.render("--set", values)
    assert [role["rules"] for role in rendered.all("ClusterRole")] == ([] if rules is None else [rules])
    assert rendered.pod["spec"]["automountServiceAccountToken"] is (rules is not None)


def test_privileged_is_nowhere(chart: Chart) -> None:
    for scenario in SCENARIOS:
        text = chart.text("--values", scenario)
        assert "privileged: true" not in text
        assert "SYS_ADMIN" not in text


def test_host_access_follows_the_collectors(chart: Chart) -> None:
    def given(values: str) -> tuple[list[str], bool]:
        rendered = chart.render("--set", values)
        added = rendered.container["securityContext"]["capabilities"]["add"]
        return added, rendered.pod["spec"].get("hostPID", False)

    base = ["BPF", "PERFMON"]
    assert given("config.profile=minimal") == (base, False)
    assert given("config.profile=minimal,config.collectors.net_iface.enabled=true") == (base, True)
    assert given("config.profile=standard,config.collectors.filesystem.enabled=false") == (base, True)
    assert given("config.profile=custom") == (base, False)
    assert given("config.profile=custom,config.collectors.filesystem.enabled=true") == ([*base, "SYS_PTRACE"], True)
    files_off = "config.collectors.filesystem.enabled=false"
    assert given(f"config.profile=comprehensive,{files_off}") == ([*base, "SYS_PTRACE"], True)
    gpu_off = "config.collectors.gpu.enabled=false"
    assert given(f"config.profile=comprehensive,{files_off},{gpu_off}") == (base, True)
    assert given("config.profile=minimal,config.collectors.gpu.enabled=true") == ([*base, "SYS_PTRACE"], True)
    assert given("config.profile=minimal,config.discovery=cgroup") == (base, True)
    assert given("config.profile=minimal,extraCapabilities={SYS_RESOURCE}") == ([*base, "SYS_RESOURCE"], False)


def test_nvidias_runtime_is_asked_for(chart: Chart) -> None:
    def environment(values: str) -> tuple[dict[str, str], str | None]:
        rendered = chart.render("--set", values)
        found = {one["name"]: one["value"] for one in rendered.container["env"] if one["name"].startswith("NVIDIA_")}
        return found, rendered.pod["spec"].get("runtimeClassName")

    asked = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "utility"}
    assert environment("config.profile=comprehensive") == ({}, None)
    assert environment("gpu.nvidia=true") == (asked, None)
    assert environment("gpu.nvidia=true,gpu.runtimeClassName=nvidia") == (asked, "nvidia")


@pytest.mark.parametrize(
    ("version", "values", "annotation", "field"),
    [
        ("1.29.0", "config.profile=standard", "unconfined", None),
        ("1.29.0", "config.profile=minimal", "runtime/default", None),
        (
            "1.29.0",
            "appArmorProfile.type=Localhost,appArmorProfile.localhostProfile=kpod-metrics",
            "localhost/kpod-metrics",
            None,
        ),
        ("1.30.0", "config.profile=standard", None, {"type": "Unconfined"}),
        ("1.30.0", "config.profile=minimal", None, {"type": "RuntimeDefault"}),
        ("1.30.0", "config.profile=minimal,config.collectors.gpu.enabled=true", None, {"type": "Unconfined"}),
        (
            "1.37.0",
            "appArmorProfile.type=Localhost,appArmorProfile.localhostProfile=kpod-metrics",
            None,
            {"type": "Localhost", "localhostProfile": "kpod-metrics"},
        ),
    ],
)
def test_apparmor(version: str, values: str, annotation: str | None, field: Object | None, chart: Chart) -> None:
    rendered = chart.render("--kube-version", version, "--set", values)
    annotations = rendered.pod["metadata"]["annotations"]
    assert annotations.get("container.apparmor.security.beta.kubernetes.io/agent") == annotation
    assert rendered.container["securityContext"].get("appArmorProfile") == field


def test_a_change_of_the_configuration_rolls_the_pods(chart: Chart) -> None:
    def checksum(*values: str) -> str:
        annotations: dict[str, str] = chart.render(*values).pod["metadata"]["annotations"]
        return annotations["checksum/config"]

    assert checksum() == checksum("--set", "service.enabled=false")
    assert checksum() != checksum("--set", "config.poll_interval=15s")


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_one_monitor_that_honours_labels(kind: str, chart: Chart) -> None:
    rendered = chart.render("--set", f"monitor.kind={kind}")
    [monitor] = [found for found in rendered.objects if found["kind"].endswith("Monitor")]
    assert monitor["kind"] == kind
    [endpoint] = monitor["spec"]["endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "path": "/metrics", "honorLabels": True}
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= rendered.pod["metadata"]["labels"].items()
    assert selected <= rendered.one("Service")["metadata"]["labels"].items()
    # A key that the operator of a cluster does not know yet fails the installation: only where it was asked for.
    assert "scrapeNativeHistograms" not in monitor["spec"]


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_monitor_asks_for_native_histograms(kind: str, chart: Chart) -> None:
    rendered = chart.render("--set", f"monitor.kind={kind},monitor.nativeHistograms=true")
    assert rendered.one(kind)["spec"]["scrapeNativeHistograms"] is True


def test_rules_and_dashboards_come_from_the_charts_folders(chart: Chart, tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "chart")
    (tmp_path / "chart/files/rules").mkdir(parents=True, exist_ok=True)
    (tmp_path / "chart/files/dashboards").mkdir(parents=True, exist_ok=True)
    rule = {"alert": "KpodTest", "expr": "up == 0", "annotations": {"summary": "{{ $labels.pod }} is down"}}
    for name in ("one", "two"):
        groups = {"groups": [{"name": name, "rules": [rule]}]}
        (tmp_path / f"chart/files/rules/test-{name}.yaml").write_text(yaml.safe_dump(groups))
    (tmp_path / "chart/files/dashboards/test-node.json").write_text('{"title": "{{pod}}"}')
    other = Chart(chart.helm, tmp_path / "chart")
    rendered = other.render("--set", "prometheusRule.enabled=true,dashboards.enabled=true")
    groups = {group["name"]: group["rules"] for group in rendered.one("PrometheusRule")["spec"]["groups"]}
    assert groups["one"] == groups["two"] == [rule]
    assert rendered.config_maps["kpod-metrics-dashboards"]["test-node.json"] == '{"title": "{{pod}}"}'
    assert not other.render().all("PrometheusRule")


def test_alerts_link_to_a_runbook(chart: Chart) -> None:
    """At an agent, by the scheme that it speaks, or where the value says; nowhere else."""

    def links(values: str) -> list[str]:
        groups = chart.render("--set", f"prometheusRule.enabled=true{values}").one("PrometheusRule")["spec"]["groups"]
        return [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]

    at = '{{ with query "kpod_build_info" }}%s://{{ . | first | label "instance" }}{{ end }}/docs/runbook'
    for values, page in (
        ("", at % "http"),
        (",webConfig.secretName=web", at % "https"),
        (",webConfig.secretName=web,webConfig.tls=false", at % "http"),
        (",prometheusRule.runbookUrl=https://kpod.example.org/docs/runbook", "https://kpod.example.org/docs/runbook"),
    ):
        assert links(values) == [f"{page}#{alert.anchor}" for alert in ALERTS]
    assert "/prometheusRule/runbookUrl" in chart.refusal("--set", "prometheusRule.runbookUrl=wiki#kpod")


def test_network_policy_lets_in_the_scraper_and_out_to_the_source(chart: Chart) -> None:
    def policy(values: str) -> Object:
        spec: Object = chart.render("--set", f"networkPolicy.enabled=true,{values}").one("NetworkPolicy")["spec"]
        return spec

    assert policy("config.discovery=cgroup")["egress"] == []
    spec = policy("config.discovery=kubernetes")
    assert spec["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    assert [port["port"] for port in spec["egress"][0]["ports"]] == [443, 6443]
    assert [port["port"] for port in policy("config.discovery=kubelet")["egress"][0]["ports"]] == [10250]
    spec = policy("config.discovery=kubelet,config.kubelet_address=10.0.0.1:10255")
    assert [port["port"] for port in spec["egress"][0]["ports"]] == [10255]
    for endpoint, port in (
        ("http://otel.monitoring:4318", 4318),
        ("https://[fd00::1]:4319/v1/x:1", 4319),
        ("https://[fd00::1]", 443),
        ("http://a/b", 80),
    ):
        [pushed, names] = policy(f"config.discovery=cgroup,config.otlp_endpoint={endpoint}")["egress"]
        assert pushed == {"ports": [{"port": port, "protocol": "TCP"}]}
        assert {one["port"] for one in names["ports"]} == {53}
        assert len(policy(f"config.discovery=kubelet,config.otlp_endpoint={endpoint}")["egress"]) == 3


def test_pod_of_helm_test_is_no_agents(chart: Chart) -> None:
    """What selects the agents must not select it: the DaemonSet would take it for one of its own."""
    rendered = chart.render()
    selector = rendered.one("DaemonSet")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= rendered.one("Pod")["metadata"]["labels"].items()


IMMUTABLE = {
    "DaemonSet": ("spec", "selector"),
    "Service": ("spec", "clusterIP"),
    "ClusterRoleBinding": ("roleRef",),
}


@pytest.mark.slow
def test_upgrade_and_rollback_keep_names_and_selectors(chart: Chart, tmp_path: Path) -> None:
    """Another version of the chart, with every value changed: what cannot be changed in place is the same."""
    shutil.copytree(CHART, tmp_path / "chart")
    file = tmp_path / "chart/Chart.yaml"
    file.write_text(re.sub(r"(?m)^(version|appVersion): .*", r"\1: 9.8.7", file.read_text()))
    newer = Chart(chart.helm, tmp_path / "chart")
    before = {(found["kind"], found["metadata"]["name"]): found for found in chart.render().objects}
    for scenario in SCENARIOS:
        if scenario.stem.startswith("everything-else"):  # changes the name, which only a new release may
            continue
        after = {(found["kind"], found["metadata"]["name"]): found for found in newer.render("-f", scenario).objects}
        for key in before.keys() & after.keys():
            for path in [IMMUTABLE[key[0]]] if key[0] in IMMUTABLE else []:
                old, new = before[key], after[key]
                for step in path:
                    old, new = old[step], new[step]
                assert old == new
        for kind in ("DaemonSet", "ServiceAccount", "ConfigMap"):
            assert [key for key in before if key[0] == kind] == [
                key for key in after if key[0] == kind and not key[1].endswith("-dashboards")
            ]


@pytest.mark.slow
def test_uninstall_leaves_nothing(chart: Chart) -> None:
    """Helm removes what a release has, but for hooks that nothing deletes, kept resources and CRDs."""
    assert not (CHART / "crds").exists()
    for scenario in SCENARIOS:
        for found in chart.render("--values", scenario).objects:
            annotations = found["metadata"].get("annotations", {})
            assert "helm.sh/resource-policy" not in annotations
            if "helm.sh/hook" in annotations:
                assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]
            assert found.get("spec", {}).get("finalizers") is None
