"""The kernel features that this run of the tests does without, and what this kernel has of the others.

The variable of the setting `kernel_features_off` is for every agent that a test starts, and for what tests open in
their own process: `KPOD_KERNEL_FEATURES_OFF='iter/*' make test`.
"""

import os
from dataclasses import fields
from functools import cache

import pytest

from kpod_metrics import check, settings
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.features import matching

VARIABLE = "KPOD_KERNEL_FEATURES_OFF"
OFF = frozenset(matching(filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(",")))))


def needs(*features: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, where one of these kernel features is not there or is forced off."""
    return pytest.mark.needs(*features)


def variables() -> dict[str, str]:
    """This process' environment, for an agent: without settings, but for the features that are forced off."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(settings.ENVIRONMENT_PREFIX) or name == VARIABLE
    }


def force_off() -> None:
    """Have every `Environment` that is made from now on without them."""
    assert "forced_off" in {field.name for field in fields(Environment)}
    made = Environment.__post_init__

    def without(self: Environment) -> None:
        object.__setattr__(self, "forced_off", self.forced_off | OFF)
        made(self)

    Environment.__post_init__ = without  # type: ignore[method-assign]


@cache
def states() -> dict[str, check.FeatureState]:
    """What the agent's own probes say, by the feature's name."""
    return {state.name: state for state in check.features(Environment())}


def lacking(feature: str) -> str:
    """Why a test cannot have a feature; empty where it can."""
    if feature in OFF:
        return f"forced off by {VARIABLE}"
    return "" if states()[feature].available else states()[feature].refusal
