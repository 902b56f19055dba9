"""Reading a YAML file: settings, the web configuration, a kubeconfig.

A few hundred bytes of YAML can describe gigabytes (an alias stands for all that it names), and some values take a time
that grows with the square of their length. So a file has bounds, far above what any of these files needs.
"""

from typing import Any

import yaml

from kpod_metrics.errors import shown

MAX_BYTES = 1 << 20
"""Size of a file."""
MAX_NODES = 20_000
"""Keys, values and lists of a file: a kubeconfig of 700 clusters."""
MAX_DEPTH = 50
"""Lists and mappings within each other. A kubeconfig with a plugin has seven."""
MAX_NUMBER, MAX_NUMBER_KEY = 64, 18
"""Characters of a number or time, and of one that is a key. A number to base 60 (1:1:1) takes a time that grows with
the square of its length, Python does not print one of 4,300 digits, and numbers beyond 61 bits can collide as keys."""
_NUMBERS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


class NoYamlError(Exception):
    """A file is not valid YAML, or is not accepted. `where` is ` line N` if it is known.

    `reason` can contain text of the file: it is safe to print, but may be a secret. It is in `rule` if it cannot.
    """

    def __init__(self, where: str, reason: str, *, rule: bool = False) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason
        self.rule = reason if rule else ""


class _BeyondError(yaml.MarkedYAMLError):
    """A file is above one of the bounds."""

    def __init__(self, problem: str, at: Any) -> None:
        super().__init__(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.CSafeLoader):
    """The parser in C: the one in Python takes ten seconds for a megabyte."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        _check_number(node, MAX_NUMBER)
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            _check_number(key, MAX_NUMBER_KEY)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _check_number(node: yaml.Node, longest: int) -> None:
    if node.tag in _NUMBERS and len(node.value) > longest:
        raise _BeyondError(f"a number of more than {longest} characters", node)


def _check(content: str) -> None:
    """Check the structure of a file, without building it."""
    depth = nodes = 0
    for event in yaml.parse(content, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not isinstance(event, yaml.NodeEvent):
            continue
        nodes += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _BeyondError("an anchor or alias (& or *)", event)
        if nodes > MAX_NODES:
            raise _BeyondError(f"more than {MAX_NODES} keys and values", event)
        depth += isinstance(event, yaml.CollectionStartEvent)
        if depth > MAX_DEPTH:
            raise _BeyondError(f"more than {MAX_DEPTH} lists and mappings within each other", event)


def load(path: str) -> Any:
    """Return the content of a file; raises OSError if it cannot be read, NoYamlError if it is not valid."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise NoYamlError("", f"more than {MAX_BYTES} bytes", rule=True)
    try:
        text = content.decode()
        _check(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: an invalid date (2020-13-01), or bytes that are not UTF-8.
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        reason = shown(str(getattr(error, "problem", None) or error))
        raise NoYamlError(where, reason, rule=isinstance(error, _BeyondError)) from None
    except Exception:  # if a value does not fit its tag, PyYAML raises KeyError, IndexError, AttributeError, ...
        raise NoYamlError("", "a value does not fit its tag (as in !!bool x)") from None
