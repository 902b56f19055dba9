"""The common parts of the expressions of rules and panels."""

import re

CONTAINER = "cluster, namespace, pod, container, node"
"""Labels that identify a container, without those of the scrape (job, instance), which change with the agent."""


def rate(counter: str, *labels: str, window: str = "5m") -> str:
    """Return the growth per second of a counter, by container and these labels."""
    return f"sum by ({', '.join((CONTAINER, *labels))}) (rate({counter}[{window}]))"


def _histogram(part: str, name: str, selector: str, by: str, window: str) -> str:
    """Return the growth per second of a histogram's sum or count, stored as native or classic."""
    return (
        f"sum by ({by}) (histogram_{part}(rate({name}{selector}[{window}])))\n"
        f"or\n"
        f"sum by ({by}) (rate({name}_{part}{selector}[{window}]))"
    )


def sum_rate(name: str, *labels: str, selector: str = "", window: str = "5m", by: str = CONTAINER) -> str:
    """Return the growth per second of a histogram's sum."""
    return _histogram("sum", name, selector, ", ".join((by, *labels)), window)


def count_rate(name: str, *labels: str, selector: str = "", window: str = "5m", by: str = CONTAINER) -> str:
    """Return the growth per second of a histogram's count."""
    return _histogram("count", name, selector, ", ".join((by, *labels)), window)


def quantile(of: float, name: str, *labels: str, selector: str = "", window: str = "5m", by: str = CONTAINER) -> str:
    """Return a quantile of a histogram's observations within the window."""
    kept = ", ".join((by, *labels))
    return (
        f"histogram_quantile({of}, sum by ({kept}) (rate({name}{selector}[{window}])))\n"
        f"or\n"
        f"histogram_quantile({of}, sum by ({kept}, le) (rate({name}_bucket{selector}[{window}])))"
    )


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_WORD = re.compile(r"(?<![\w:$.])[a-zA-Z_:][\w:]*")
_KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "Inf", "nan", "NaN"})
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_DURATION = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")


def names(expression: str) -> tuple[set[str], set[str]]:
    """Return the names of metrics and labels in an expression."""
    labels: set[str] = set()

    def grouping(match: "re.Match[str]") -> str:
        labels.update(label.strip() for label in match[2].split(",") if label.strip())
        return " "

    def matchers(match: "re.Match[str]") -> str:
        labels.update(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", match[1]))
        return " "

    # A word before a parenthesis is a function or an aggregation, whose grouping is removed by now.
    text = _STRING.sub('""', expression)
    text = _DURATION.sub(" ", text)
    text = _MATCHERS.sub(matchers, text)
    text = _GROUPING.sub(grouping, text)
    metrics = {word[0] for word in _WORD.finditer(text) if not text[word.end() :].lstrip().startswith("(")} - _KEYWORDS
    return metrics, labels
