"""The page at `/` and `top` show the same cause of the same pod, from the same two pages of metrics."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics import health
from kpod_metrics.diagnosis import thresholds
from kpod_metrics.diagnosis.rates import Input
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.landing import page, waits
from kpod_metrics.top.columns import WAITS
from kpod_metrics.top.figures import figures, read
from monitoring.alerts import POD_ALERTS
from monitoring.recording import RULES
from tests.unit.landing.fixture import A_POD, SECONDS, Node

_LABELS = {
    Input.CONNECTIONS: "outbound",
    Input.SPACE_AVAILABLE: "/data",
    Input.SPACE_CAPACITY: "/data",
    **dict.fromkeys((Input.SYSCALLS, Input.SYSCALL_ERRORS, Input.SYSCALL_SECONDS), "fsync"),
    **{name: "eth0" for name in Input if "net_iface" in name},
}
"""A value of the metric's label."""
KEYS = [f"{_LABELS[name]}__{name[5:]}" if name in _LABELS else name[5:] for name in Input]
growths = st.dictionaries(st.sampled_from(KEYS), st.sampled_from((0.0, 1.0, 3.0, 4.0, 20.0, 1000.0)))


def cycle(node: Node) -> bytes:
    """End a cycle; return its page."""
    node.agent(health.CYCLE, (), 0.034, node.now + SECONDS, 2, SECONDS)
    node.cycle()
    return b"".join(node.compared.page.pieces(PROTOBUF))


def shown(document: str) -> tuple[list[str], str]:
    """The alerts that the row of the pod links to, and the text of the first one."""
    [row] = re.findall(r"<tr class.*?</tr>", document, re.DOTALL)
    found = re.findall(r'href="docs/runbook#(\w+)">([^<]*)<', row)
    return [alert for alert, _ in found], unescape(found[0][1]) if found else ""


@given(growths, growths, st.booleans())
def test_the_page_and_top_name_the_same_cause(first: dict[str, float], second: dict[str, float], new: bool) -> None:
    """Of any growth, of a container that is new or not."""
    node = Node()
    node.saw(A_POD._replace(pod="other"), cpu_usage_seconds_total=1.0)
    if not new:
        node.saw(A_POD, **first)
    before = read(cycle(node))
    node.saw(A_POD._replace(pod="other"), cpu_usage_seconds_total=1.0)
    node.saw(A_POD, **second)
    now = read(cycle(node))
    # `top` has a row for each container, and one for what is the whole pod's.
    found = [one.cause for one in figures(before, now) if one.owner.pod == A_POD.pod and one.cause]
    on_page = [pod for pod in waits.pods(waits.rates(node.compared)) if pod.pod == A_POD.pod]
    assert max(found, default=None) == next((cause for pod in on_page for cause in pod.causes), None)


CASES = {
    "kpod_mem_oom_kills_total": ("oom 2", "OOM killer: 2 processes were killed"),
    "kpod_net_tcp_retransmits_total": ("network 2/s", "network: 2 retransmits a second"),
    "kpod_pressure_io_stalled_seconds_total": ("disk 80%", "disk: all tasks wait for I/O 80 % of the time"),
}


@pytest.mark.parametrize("name", CASES)
def test_both_render_it(name: str) -> None:
    amounts = dict(zip(CASES, (2.0, 20.0, 8.0), strict=True))
    node = Node()
    node.saw(A_POD, **{name[5:]: 0.0})
    before = read(cycle(node))
    node.saw(A_POD, **{name[5:]: amounts[name]})
    [row] = figures(before, read(cycle(node)))
    assert row.cause is not None
    alerts, text = shown(page.render(node.compared, (), "n1").decode())
    assert (WAITS.cell(row), text) == CASES[name]
    assert alerts == [row.cause.alert.lower()]


def test_every_threshold_is_one_of_the_list() -> None:
    """Numbers that alerts about pods compare with are of the one list, and so is the bound of a recorded ratio."""
    declared = set()
    for value in vars(thresholds).values():
        if isinstance(value, int | float):
            declared.add(f"{value:g}")
    texts = [alert.expr for alert in POD_ALERTS] + [rule.expr for rule in RULES]
    compared = {number for text in texts for number in re.findall(r"(?:>=|<=|>|<)\s*([\d.]+)", text)}
    # Any at all, all of it (a prediction), and none.
    assert compared - {"0", "1"} <= declared
    assert {"0.3", "0.25", "0.9", "100", "0.02"} <= compared
