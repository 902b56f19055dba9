"""One target under atheris: `python -m tests.reliability.fuzz.guided TARGET CORPUS [libFuzzer's flags]`."""

import sys

import atheris

with atheris.instrument_imports(include=["kpod_metrics", "h11"]):
    from tests.reliability.fuzz.targets import TARGETS


def main() -> None:
    [target] = [one for one in TARGETS if one.name == sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
