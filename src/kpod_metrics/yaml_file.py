"""Reading a YAML file."""

from typing import Any

import yaml


class NoYamlError(Exception):
    """A file is not valid YAML. `where` is ` line N` if it is known; `reason` can contain text of the file."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where, self.reason = where, reason


def load(path: str) -> Any:
    """Return the content of a file; raises OSError if it cannot be read, NoYamlError if it is not valid."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: bytes that are not UTF-8, or an invalid date (2020-13-01).
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise NoYamlError(where, " ".join(str(getattr(error, "problem", None) or error).split())) from None
    except Exception:  # if a value does not fit its tag, PyYAML raises KeyError, IndexError, AttributeError, ...
        raise NoYamlError("", "a value does not fit its tag (as in !!bool x)") from None
