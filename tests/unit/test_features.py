"""The declared kernel features, the switches for them, and what the documentation says of both."""

import os
import subprocess
import sys

import pytest

from kpod_metrics import features, settings
from kpod_metrics.collectors import registered
from kpod_metrics.errors import SettingError
from kpod_metrics.features import FEATURES
from tests import forced
from tests.conftest import REPOSITORY


def test_every_feature_is_used_by_a_collector_and_none_else() -> None:
    assert {name for kind in registered().values() for name in kind.features} == FEATURES.keys()


def test_patterns() -> None:
    assert features.matching(["iter/*"]) == ("iter/bpf_sk_storage_map", "iter/task", "iter/task_file")
    assert features.matching(["task_*", "batch", "b*"]) == ("task_storage", "task_table", "batch")
    assert features.matching([]) == ()
    for wrong in ("iter", "x/*", ""):
        with pytest.raises(ValueError, match=f"^{wrong.replace('*', '.')}$"):
            features.matching(["batch", wrong])


def test_what_needs_what() -> None:
    assert features.with_needed({"task_table"}) == {"task_table", "task_storage", "tp_btf"}
    assert features.with_dependent({"socket_storage"}) == {"socket_storage", "iter/bpf_sk_storage_map"}
    assert features.with_dependent({"tp_btf"}) == {
        *("tp_btf", "task_storage", "task_table", "socket_storage", "iter/bpf_sk_storage_map"),
    }
    assert features.with_dependent(()) == features.with_needed(()) == frozenset()


def test_a_feature_cannot_be_both() -> None:
    given = {"kernel_features_off": "tp_*", "kernel_features_on": "iter/bpf*"}
    with pytest.raises(SettingError) as caught:
        settings.load(given, {}, None, ())
    assert str(caught.value) == (
        "kernel_features_on: iter/bpf_sk_storage_map is not accepted; "
        "accepted: features that need none of kernel_features_off (tp_btf)"
    )


def test_the_variable_is_for_agents_and_for_what_tests_open() -> None:
    code = """if True:
        from tests import forced
        from kpod_metrics.collectors.kit import Environment
        forced.force_off()
        print(sorted(Environment(forced_off=frozenset({"batch"})).forced_off), sorted(forced.variables().items()))
    """
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "KPOD_PROFILE": "minimal"}
    environment[forced.VARIABLE] = "iter/task*"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    off, variables = done.stdout.split("] [")
    assert off == "['batch', 'iter/task', 'iter/task_file'"
    assert f"('{forced.VARIABLE}', 'iter/task*')" in variables
    assert "KPOD_PROFILE" not in variables


def test_documentation_has_every_feature() -> None:
    page = (REPOSITORY / "docs" / "install.md").read_text()
    table = page.partition("| feature | what it is | without it |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| `{one.name}` | {one.meaning} | {one.without} |" for one in FEATURES.values()]
