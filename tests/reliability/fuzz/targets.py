"""Everything that reads what others wrote, and what must hold for any bytes that it is given.

A target's check lets the errors pass that are declared, and nothing else; beyond that it asserts what can be known of
the result of any input.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kpod_metrics.bounds import clipped
from kpod_metrics.cgroup import keyed, mounts, net_dev, pressure
from kpod_metrics.cgroup.tree import Tree, find_root
from kpod_metrics.errors import KpodError, RefusedError, SettingError
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.samples import shown
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.kernel import btf, rights
from kpod_metrics.kernel.libbpf import Object
from kpod_metrics.kernel.programs import OBJECTS
from kpod_metrics.metrics import Label, Scope, Table, counter
from kpod_metrics.otlp import encode
from kpod_metrics.pods import api
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.paths import identity_of_path
from kpod_metrics.pods.stream import Page
from kpod_metrics.selector import parse as parse_selector
from kpod_metrics.server import accepts_gzip, negotiate
from kpod_metrics.settings import load
from kpod_metrics.store import Store
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.guard import Guard
from tests import client_model
from tests.fakes.otlp import points_of
from tests.growth import grow
from tests.reliability.fuzz.mutate import LONG
from tests.reliability.fuzz.web import REQUESTS, check_requests


@dataclass(frozen=True)
class Target:
    """A reader of foreign bytes."""

    name: str
    check: Callable[[bytes], None]
    """Raises whatever goes wrong."""
    seeds: Sequence[bytes]
    share: int = 10
    """Of a run's inputs, relative to the others: slow ones have less."""

    @property
    def slug(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"\W+", "-", self.name).strip("-").lower()


def _natural(values: Sequence[int | None]) -> None:
    assert all(value is None or 0 <= value < 10**20 for value in values), values


def check_keyed(data: bytes) -> None:
    """`cpu.stat`, `memory.events`, `memory.current`, `io.stat`."""
    _natural(keyed.flat(data, b"usage_usec", b"oom_kill", b""))
    _natural([keyed.single(data)])
    for name, values in keyed.by_device(data, b"rbytes", b"wbytes").items():
        _natural(values)
        assert name
        assert len(values) == 2
        name.encode()


def check_pressure(data: bytes) -> None:
    """Pressure files."""
    _natural(pressure.totals(data))


def check_net_dev(data: bytes) -> None:
    """`net/dev`."""
    for name, totals in net_dev.interfaces(data).items():
        assert all(total >= 0 for total in totals)
        shown(name).encode()


def check_mountinfo(data: bytes) -> None:
    """`mountinfo`, for the file system collector, and for the search of the cgroup2 mount."""
    for system in mounts.file_systems(data):
        assert system.points
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        os.mkdir(f"{root}/self")
        Path(root, "self/mountinfo").write_bytes(data)
        try:
            assert find_root(root)
        except RefusedError as error:
            assert_one_line(str(error))


def check_processes(data: bytes) -> None:
    """`cgroup.procs`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        Path(root, "cgroup.procs").write_bytes(data)
        assert all(pid > 0 for pid in Tree(root).walk()[0].pids)


def check_status(data: bytes) -> None:
    """`/proc/self/status`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        os.mkdir(f"{root}/self")
        Path(root, "self/status").write_bytes(data)
        assert rights.effective(root) >= 0


def check_path(data: bytes) -> None:
    """The name of a cgroup."""
    identity = identity_of_path(os.fsdecode(data))
    assert identity.pod
    assert len(identity.container) <= 12


def check_btf(data: bytes) -> None:
    """BTF."""
    try:
        types = btf.Types(data)
    except btf.BtfError as error:
        assert_one_line(str(error))
        return
    for type_id in range(len(types._types) + 1):
        for holes in (True, False):
            try:
                layout = types.layout(type_id, unnamed_holes=holes)
            except btf.BtfError as error:
                assert_one_line(str(error))
            else:
                # An array may be said to have any length: what is unpacked is what is there, and here that is nothing.
                assert layout.size > LONG or len(layout.unpack(bytes(layout.size))) >= 0
    with suppress(KeyError, btf.BtfError):
        types.variable(".rodata", "kpod_untyped")


def check_kubernetes(data: bytes) -> None:
    """What an API server or a kubelet sends."""
    for decode in (api.item_of, api.event_of, api.refusal_of, lambda data: Page("fuzz").items([data])):
        try:
            found: Any = api.decoded(decode, data)
            if isinstance(found, api.Event):
                found = api.decoded(api.item_of, found.object)
            items = [found] if isinstance(found, api.Item) else list(found) if isinstance(found, Iterator) else []
            pods = [api.decoded(api.pod_of, item, api.Labels(("app",))) for item in items]
        except KpodError:
            continue
        for pod in pods:
            assert [one.name for one in api.merge(pod, pod).containers] == [one.name for one in pod.containers]


COLLECTORS = ("run_queue", "net_tcp")


def check_settings(data: bytes) -> None:
    """The configuration file."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        try:
            load({}, {}, file.name, COLLECTORS)
        except SettingError as error:
            assert_one_line(str(error))


def check_web_config(data: bytes) -> None:
    """The web configuration file, and what follows from it."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        try:
            Guard(file.name, Counts())
        except SettingError as error:
            assert_one_line(str(error))


_FLAGS = ("poll_interval", "listen", "kubelet_address", "pod_labels", "otlp_headers", "otlp_endpoint", "syscalls")


def check_flags(data: bytes) -> None:
    """Values of settings as flags and environment variables have them."""
    text = os.fsdecode(data)
    for key in _FLAGS:
        for flags, environment in (({key: text}, {}), ({}, {f"KPOD_{key.upper()}": text})):
            try:
                load(flags, environment, None, COLLECTORS)
            except SettingError as error:
                assert_one_line(str(error))


def check_selector(data: bytes) -> None:
    """Label selectors."""
    try:
        selects = parse_selector(os.fsdecode(data))
    except ValueError:
        return
    assert selects({"app": "web", "env": "a"}) in {True, False}


def check_headers(data: bytes) -> None:
    """`Accept` and `Accept-Encoding`."""
    header = data.decode("latin-1")
    assert negotiate(header).partition("/")[0] in {"text", "application"}
    assert accepts_gzip(header) in {True, False}


def check_otlp_answer(data: bytes) -> None:
    """What an OTLP receiver answers."""
    count, said = encode.rejected(data)
    assert 0 <= count < 2**63
    assert isinstance(said, str)
    assert isinstance(encode.refusal(data), str)


TABLE = Table((counter("kpod_fuzz_total", "Test.", "test"),), labels=(Label("free", per="input"),))
AGENT = Table((counter("kpod_own_total", "Test.", "test"),), labels=(Label("map", per="input"),), scope=Scope.AGENT)
_ENCODER = encode.Encoder(1)
_ESCAPED = re.compile(rb'^\w+\{(\w+="([^"\\\n]|\\["\\n])*",?)*\} \S+$')


def check_labels(data: bytes) -> None:
    """Any value of any label, through every format: another's reader finds it as it was, or cut and marked."""
    values = [os.fsdecode(part) for part in data.split(b"\0")][:20]
    store = Store([TABLE, AGENT], frozenset([*TABLE.metrics, *AGENT.metrics]))
    expected = {}
    for at, value in enumerate(values):
        identity = Identity(value, f"{at}", value[::-1])
        grow(store, TABLE, identity, (value,), (at,), at)
        store.set(AGENT, (value,), (at,))
        expected[f"{at}"] = (shown(value), shown(value[::-1]), shown(clipped(value)))
    page = Renderer({"node": values[0]}).render(store)
    node = shown(values[0])

    def compare(found: dict[str, tuple[dict[str, str], float]]) -> None:
        assert found.keys() == expected.keys()
        for pod, (labels, number) in found.items():
            namespace, container, free = expected[pod]
            assert labels == {
                "namespace": namespace,
                "pod": pod,
                "container": container,
                "node": node,
                "free": free,
            }, (labels, expected[pod])
            assert number == int(pod)

    for parse, text in (
        (parse_text, b"".join(page.pieces(TEXT))),
        (parse_openmetrics, b"".join(page.pieces(OPENMETRICS))),
    ):
        for line in text.split(b"\n")[:-1]:
            assert line.startswith(b"#") or _ESCAPED.match(line), line
        samples = [one for family in parse(text.decode()) for one in family.samples]
        compare({one.labels["pod"]: (one.labels, one.value) for one in samples if one.name == "kpod_fuzz_total"})
        own = {one.labels["map"] for one in samples if one.name == "kpod_own_total"}
        assert own == {shown(clipped(value)) for value in values}
    families = {family.name: family for family in client_model.decode(b"".join(page.pieces(PROTOBUF)))}
    found = [(client_model.labels_of(one), one.counter.value) for one in families["kpod_fuzz_total"].metric]
    compare({labels["pod"]: (labels, number) for labels, number in found})
    points = [
        point
        for request in _ENCODER.requests(page)
        for point in points_of(ExportMetricsServiceRequest.FromString(request.body))
        if point.metric.name == "kpod_fuzz_total"
    ]
    assert len(points) == len(values)
    for point in points:
        pod = point.resource["k8s.pod.name"]
        namespace, container, free = expected[pod]
        assert point.resource.get("k8s.namespace.name", "") == namespace
        assert point.resource.get("k8s.container.name", "") == container
        assert point.attributes.get("free", "") == free
        assert point.resource.get("k8s.node.name", "") == node


def assert_one_line(said: str) -> None:
    """An error for a user is one line that is safe to print."""
    assert said
    assert said.isprintable(), repr(said)


def _btf() -> bytes:
    with closing(Object(f"{OBJECTS}/cgroups.bpf.o")) as opened:
        return opened._raw_btf()


_POD = {
    "metadata": {
        "name": "web-7d9c5-x2v4q",
        "namespace": "shop",
        "uid": "12345678-1234-1234-1234-123456789abc",
        "resourceVersion": "123",
        "labels": {"app": "web", "pod-template-hash": "7d9c5"},
        "annotations": {"kubernetes.io/config.source": "api"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web-7d9c5", "controller": True}],
    },
    "spec": {
        "nodeName": "n1",
        "restartPolicy": "Always",
        "initContainers": [{"name": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "app"}],
    },
    "status": {
        "phase": "Running",
        "qosClass": "Burstable",
        "containerStatuses": [
            {
                "name": "app",
                "containerID": "containerd://" + "a" * 64,
                "restartCount": 2,
                "state": {"running": {}},
                "lastState": {"terminated": {"containerID": "containerd://" + "b" * 64, "exitCode": 1}},
            }
        ],
    },
}

_OBJECTS_OF_THE_API: tuple[dict[str, Any], ...] = (
    _POD,
    {"kind": "PodList", "metadata": {"resourceVersion": "9", "continue": ""}, "items": [_POD, _POD]},
    {"type": "MODIFIED", "object": _POD},
    {"type": "ERROR", "object": {"code": 410, "message": "too old"}},
    {"metadata": {}, "items": None},
)

_CONFIG = b"""\
profile: comprehensive
discovery: kubernetes
listen: "[::]:9090"
poll_interval: 15s
syscalls: [read, write]
pod_labels: [app, "app.kubernetes.io/name"]
pod_selector: app=web,tier!=cache,env in (a,b)
otlp: {endpoint: "http://otel:4318", headers: {authorization: Bearer x}}
collectors: {run_queue: {enabled: true, interval: 60s}, net_tcp: {interval: 1m}}
"""

_NET_DEV = b"""\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000       10    0    0    0     0          0         0     1000       10    0    0    0     0       0          0
  eth0:18446744073709551615 20 1 2 0 0 0 0 3000 30 3 4 0 0 0 0
"""  # noqa: E501

_MOUNTINFO = rb"""22 1 0:21 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
23 22 0:22 / /proc rw,nosuid - proc proc rw
24 22 0:23 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
25 22 0:24 /../.. /mnt/a\040b rw,nosuid - cgroup2 cgroup2 rw
26 22 8:1 /data /data rw,relatime master:3 - ext4 /dev/sda1 rw,errors=remount-ro
27 22 0:50 / /run/secrets ro,relatime - tmpfs tmpfs ro,size=10k
28 22 0:51 / /net rw - nfs4 server:/x rw
"""

TARGETS = (
    Target(
        "cgroup files",
        check_keyed,
        (
            b"usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 0\n",
            b"low 0\nhigh 0\nmax 0\noom 1\noom_kill 2\noom_group_kill 1\n",
            b"4096\n",
            b"max\n",
            b"8:0 rbytes=90 wbytes=1 rios=3 wios=4 dbytes=0 dios=0\n259:1 rbytes=1 wbytes=2 rios=1 wios=1\n",
            b"7:1 7:0 8:0 rbytes=1 wbytes=2\n",
        ),
        60,
    ),
    Target(
        "pressure files",
        check_pressure,
        (b"some avg10=0.00 avg60=1.00 avg300=0.50 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=45\n",),
        30,
    ),
    Target("net/dev", check_net_dev, (_NET_DEV,), 20),
    Target("mountinfo", check_mountinfo, (_MOUNTINFO,), 6),
    Target("cgroup.procs", check_processes, (b"1\n22\n333\n0\n", b""), 6),
    Target("/proc/self/status", check_status, (b"Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n",), 6),
    Target(
        "cgroup paths",
        check_path,
        (
            b"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12345678_1234_1234_1234_123456789abc.slice/"
            b"cri-containerd-" + b"a" * 64 + b".scope",
            b"kubepods/besteffort/pod12345678-1234-1234-1234-123456789abc/" + b"b" * 64,
            b"system.slice/ssh.service",
            b"kpod/a b\xff",
        ),
        20,
    ),
    Target("BTF", check_btf, (_btf(),), 1),
    Target(
        "Kubernetes JSON",
        check_kubernetes,
        tuple(json.dumps(one).encode() for one in _OBJECTS_OF_THE_API),
        10,
    ),
    Target(
        "YAML",
        check_settings,
        (
            *(_CONFIG, b"profile: minimal\n", b"syscalls:\n- read\n- &a write\n"),
            b"profile: !!bool x\npoll_interval: !!timestamp x\nlisten: !!int ''\nnode_name: !!binary x\n",
        ),
        1,
    ),
    Target(
        "web configuration",
        check_web_config,
        (
            b"tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n  min_version: TLS13\n",
            b"tls_server_config: {cert: x, key: y, client_auth_type: VerifyClientCertIfGiven, client_ca: '\xc5\x91'}\n",
            b"basic_auth_users:\n  a: $2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG\n",
            b"bearer_tokens: !!map\n  a: " + b"ab" * 32 + b"\nrate_limit: {interval: 1s, burst: !!int 5}\n",
            b"http_server_config:\n  headers: {X-Frame-Options: deny}\n",
        ),
        1,
    ),
    Target(
        "flags and variables",
        check_flags,
        (b"30s", b"[::1]:9090", b"host:10250", b"app,team/x", b"a=b,c=d", b"https://[::1]:4318/v1", b"read,write"),
        1,
    ),
    Target("label selectors", check_selector, (b"app=web,tier!=cache,env in (a,b),!canary", b"env notin (a)"), 10),
    Target(
        "Accept headers",
        check_headers,
        (
            b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1",
            b"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6",
            b"gzip;q=0, deflate, *;q=0.5",
        ),
        20,
    ),
    Target("HTTP requests", check_requests, REQUESTS, 2),
    Target("OTLP answers", check_otlp_answer, (b"\x0a\x06\x08\x05\x12\x02no", b"\x08\x03\x12\x03bad"), 20),
    Target(
        "label values",
        check_labels,
        (
            b'a "quoted" \\ back\nline',
            "日本語\N{GRINNING FACE}\u2028\x85\r\x0b\x0c\x1c".encode(),
            b"\xff\xed\xa0\x80",
            b"a\0b\0c",
        ),
        2,
    ),
)
