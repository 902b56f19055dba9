"""Kubernetes label selectors, `app=web,tier!=cache,env in (a,b),!canary` (apimachinery, pkg/labels/selector.go)."""

import re
from collections.abc import Callable, Mapping

Selector = Callable[[Mapping[str, str]], bool]

# Limited as in Kubernetes (a prefix of 253, a slash, a name of 63): else a long invalid one takes minutes.
_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]{0,315}[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"\s*(?:!\s*(?P<gone>{_KEY})"
    rf"|(?P<set>{_KEY})\s+(?P<not>not)?in\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?:(?P<operator>==|=|!=)\s*(?P<value>{_VALUE}))?)\s*(?:,|$)"
)
_WHOLE_VALUE = re.compile(_VALUE)


def parse(text: str) -> Selector:
    """Return a predicate for a pod's labels; an empty selector accepts all. Raises ValueError if it is not valid."""
    requirements: list[Selector] = []
    at = 0
    while at < len(text):
        match = _REQUIREMENT.match(text, at)
        if not match:
            raise ValueError(f"not a label selector at {text[at:]!r}")
        requirements.append(_requirement(match))
        at = match.end()
    if text.rstrip().endswith(","):
        raise ValueError("a label selector that ends with a comma")
    return lambda labels: all(holds(labels) for holds in requirements)


def keys(text: str) -> frozenset[str]:
    """Return the keys of the labels that a valid selector needs."""
    found = _REQUIREMENT.finditer(text)
    return frozenset(match["gone"] or match["set"] or match["key"] for match in found)


def _requirement(match: "re.Match[str]") -> Selector:
    key = match["gone"] or match["set"] or match["key"]
    if match["gone"]:
        return lambda labels: key not in labels
    if match["set"]:
        wanted = {value.strip() for value in match["values"].split(",")}
        if not all(_WHOLE_VALUE.fullmatch(value) for value in wanted):
            raise ValueError(f"not values of a label: {match['values']!r}")
    elif match["operator"]:
        wanted = {match["value"]}
    else:
        return lambda labels: key in labels
    if match["not"] or match["operator"] == "!=":
        return lambda labels: labels.get(key) not in wanted
    return lambda labels: labels.get(key) in wanted
