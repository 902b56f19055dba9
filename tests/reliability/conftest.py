"""What the tests of faults share: the live tests' cgroups, workloads and agents, and a report of what happened."""

import os

import pytest

from tests.live.conftest import (  # noqa: F401 - fixtures
    IN_CI,
    _missing,
    cgroup,
    cgroup_root,
    children,
    controllers,
    limited,
    machine_is_left_as_found,
    mount_namespaces,
    on_disk,
    tell,
    workload,
)

SEED = int(os.environ.get("SEED") or 20_261_125)


def pytest_report_header() -> str:
    return f"reliability: SEED={SEED}, {'all of it' if LONG else 'the short part'}"


LONG = os.environ.get("LONG") == "1"
"""Whether this is `make test-long`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    late = [] if LONG else [item for item in items if item.get_closest_marker("long")]
    if late:
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if item not in late]
    reason = _missing()
    for item in items:
        path = str(item.path)
        if "tests/reliability" in path and "fuzz" not in path:
            item.add_marker(pytest.mark.live)
            if reason and not IN_CI:
                item.add_marker(pytest.mark.skip(reason=reason))
