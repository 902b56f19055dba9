"""Reading a YAML file."""

from typing import Any

import yaml


class NoYamlError(Exception):
    """A file is no YAML. `where` is ` line N` where that is known, `reason` may show what stands there."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason


def load(path: str) -> Any:
    """Return what a file holds; raises OSError where it cannot be read, NoYamlError for other content."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: bytes that are no UTF-8, or a date in the form of one that is none (2020-13-01).
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise NoYamlError(where, " ".join(str(getattr(error, "problem", None) or error).split())) from None
    except Exception:  # of a tag that its value does not fit PyYAML makes KeyError, IndexError, AttributeError, ...
        raise NoYamlError("", "a value does not fit its tag (as in !!bool x)") from None
