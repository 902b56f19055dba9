"""The command line: run, check, top, demo, metrics."""

import argparse
import json
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, NoReturn

from kpod_metrics import __version__, settings
from kpod_metrics.errors import KpodError, RefusedError, SettingError
from kpod_metrics.exposition.samples import clean, shown

MIN_FILES = 64
"""Descriptors; programs, maps and attachments need 50 of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if the machine refuses something, 2 if a setting is wrong."""
    parser = _parser()
    given = _joined(sys.argv[1:] if arguments is None else arguments)
    if given and given[0].startswith("-") and not any(given[0] in action.option_strings for action in parser._actions):
        # Else argparse would take its value for the command.
        parser.error(f"flags follow the command, and {settings.shown(given[0])} comes before it")
    options = parser.parse_args(given)
    try:
        status = int(options.command(options) or 0)
        # Here, where BrokenPipeError is caught: the interpreter's flush at exit would print a traceback.
        _flush()
        return status
    except KpodError as error:
        print(f"kpod-metrics: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    except BrokenPipeError:
        # The reader (head, less) closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (OSError, ImportError) as error:
        # No descriptors or memory, or a file of the installation cannot be read: no defect of the agent.
        print(f"kpod-metrics: {error}", file=sys.stderr)
        return 1


def _flush() -> None:
    if sys.stdout is not None:  # the parent process closed it
        sys.stdout.flush()


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join a flag and a value like -5s with "=": argparse would take the value for a flag."""
    joined: list[str] = []
    for argument in arguments:
        if re.match(r"-\.?\d", argument) and joined and joined[-1].startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and without abbreviations, which a new setting could make ambiguous."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here: argparse would leave this to the outer parser, which has other flags."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and unknown[0].startswith("-"):
            flag = unknown[0].partition("=")[0]
            flags = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"unknown flag {settings.shown(flag)}{settings.nearest(flag, flags)}")
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            near = settings.nearest(str(value), choices)
            raise argparse.ArgumentError(action, f"{value!r} is not one of {', '.join(choices)}{near}")


def _collector_names() -> list[str]:
    from kpod_metrics.collectors import registered  # noqa: PLC0415 - --version and --help need no libbpf

    return list(registered())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kpod-metrics", description="Per-pod kernel performance metrics for Prometheus.")
    parser.add_argument("--version", action="version", version=f"kpod-metrics {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    names = _collector_names()

    run = commands.add_parser("run", help="run the agent")
    _add_settings(run, names)
    run.set_defaults(command=_run)

    check = commands.add_parser(
        "check", help="check whether this machine can run the agent, and which hooks it would use"
    )
    _add_settings(check, names)
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(command=_check)

    top = commands.add_parser("top", help="show what each pod waits for, live in the terminal")
    _add_top(top)
    _add_settings(top, names)
    top.set_defaults(command=_top)

    demo = commands.add_parser("demo", help="run the agent beside workloads that make every signal move")
    demo.add_argument(
        "--duration",
        type=partial(settings.duration, low=1, high=86400),
        default=0.0,
        help="duration, 1s to 24h (default: until Ctrl-C)",
    )
    _add_settings(demo, names)
    demo.set_defaults(command=_demo)

    metrics = commands.add_parser("metrics", help="print the declared metrics")
    metrics.add_argument("--format", choices=("table", "json", "markdown"), default="table")
    metrics.set_defaults(command=_metrics)
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings (KPOD_CONFIG)")
    group = parser.add_argument_group(
        "settings", "each is also a YAML key (poll_interval) and an environment variable (KPOD_POLL_INTERVAL)"
    )
    for setting in settings.catalogue(names):
        group.add_argument(
            setting.flag,
            dest=setting.key,
            default=argparse.SUPPRESS,
            metavar=setting.key.split("_")[-1].upper(),
            help=f"{setting.help}; {setting.kind.accepted}".replace("%", "%%"),
        )


def _add_top(parser: argparse.ArgumentParser) -> None:
    from kpod_metrics.collectors import columns  # noqa: PLC0415 - as _collector_names
    from kpod_metrics.columns import FIXED  # noqa: PLC0415

    keys = (*FIXED, *(column.key for column in columns()))
    parser.add_argument(
        "--url", default="", help="URL of a running agent (default: the agent on this machine, at the port of `listen`)"
    )
    parser.add_argument("--collect", action="store_true", help="collect in this process, even if an agent runs")
    parser.add_argument(
        "--interval",
        type=settings.duration,
        default=2.0,
        help="time between two requests to the agent, 100ms to 1h, like 2s (its values change once per poll_interval)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print the table of one cycle as text; works without a terminal"
    )
    parser.add_argument("--json", action="store_true", help="print the table of one cycle as JSON")
    parser.add_argument("--sort", choices=keys, default="waits", metavar="COLUMN", help=f"one of {', '.join(keys)}")
    parser.add_argument("--filter", default="", metavar="TEXT", help="show only pods with this text in their names")
    parser.add_argument(
        "--ca", default="", metavar="FILE", help="CA certificates that verify the certificate of an https agent"
    )
    parser.add_argument("--certificate", default="", metavar="FILE", help="client certificate for the agent")
    parser.add_argument(
        "--key", default="", metavar="FILE", help="key of the client certificate (default: in the same file)"
    )
    parser.add_argument("--token-file", default="", metavar="FILE", help="file with a bearer token for the agent")


_TOP_DEFAULTS = {"profile": "comprehensive", "poll_interval": "2s"}
"""Defaults for the in-process agent of `top`."""


def _load(options: argparse.Namespace, defaults: Mapping[str, str] | None = None) -> settings.Settings:
    config = options.config or os.environ.get("KPOD_CONFIG")
    loaded, warnings = settings.load(_flags(options), os.environ, config, _collector_names(), defaults)
    _log(loaded)
    for warning in warnings:
        logging.getLogger(__name__).warning("%s", warning)
    return loaded


def _flags(options: argparse.Namespace) -> dict[str, str]:
    """Return the settings given as flags, by key."""
    keys = {setting.key for setting in settings.catalogue(_collector_names())}
    return {key: value for key, value in vars(options).items() if key in keys}


class _LineFormatter(logging.Formatter):
    """Writes a message as one line of printable characters: it can contain names that pods choose."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name in logging
        record.message = clean(shown(record.message))
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _log(loaded: settings.Settings) -> None:
    handler = logging.StreamHandler()
    line = _LineFormatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonFormatter() if loaded.log_format == "json" else line)
    logging.basicConfig(level=loaded.log_level.upper(), handlers=[handler], force=True)
    # They log every request at INFO, and headers with tokens at DEBUG. The agent logs failed requests itself.
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _run(options: argparse.Namespace) -> int:
    from kpod_metrics import agent as agents  # noqa: PLC0415
    from kpod_metrics import server  # noqa: PLC0415
    from kpod_metrics.web.address import listens_on  # noqa: PLC0415
    from kpod_metrics.web.guard import Guard  # noqa: PLC0415

    agents.tune_process()
    loaded = _load(options)
    # The soft limit is 1024 because of select(), which the agent does not use.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
        raise RefusedError(f"RLIMIT_NOFILE is {hard}: at least {MIN_FILES} descriptors are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    agent = agents.build(loaded)
    listener = server.bind(loaded.listen)
    probes = server.bind(loaded.probe_listen, "--probe-listen") if loaded.probe_listen[0] else None
    try:
        agent.open(give_up=True)
        # Read it with the rights that the agent keeps, because it reads the file again later.
        guard = Guard(loaded.web_config_file, agent.http) if loaded.web_config_file else None
        agent.start()
        logging.getLogger(__name__).info(
            "kpod-metrics %s serves %s://%s/metrics, profile %s",
            __version__,
            "https" if guard is not None and guard.secure else "http",
            listens_on(listener),
            loaded.profile,
        )
        server.serve(agent, listener, probes, guard)
    finally:
        agent.stop()
        listener.close()
    # A thread that hangs in a file system must not delay the end of the process.
    logging.shutdown()
    _flush()
    os._exit(0)


def _check(options: argparse.Namespace) -> int:
    from kpod_metrics.check import run as check  # noqa: PLC0415

    report = check(_load(options))
    print(json.dumps(report.as_json(), indent=2) if options.json else report.as_text())
    return 0 if report.ok else 1


def _metrics(options: argparse.Namespace) -> int:
    from kpod_metrics.reference import FORMATS  # noqa: PLC0415

    print(FORMATS[options.format](), end="")
    return 0


def _top(options: argparse.Namespace) -> int:
    from kpod_metrics.top import command  # noqa: PLC0415

    chosen = command.Options(**{field.name: getattr(options, field.name) for field in fields(command.Options)})
    return command.run(chosen, _load(options, _TOP_DEFAULTS))


def _demo(options: argparse.Namespace) -> int:
    from kpod_metrics.demo import command  # noqa: PLC0415

    loaded = _load(options, command.DEFAULTS)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in _flags(options).items()]
    if options.config:
        flags.append(f"--config={options.config}")
    return command.run(loaded, flags, options.duration)
