"""The command `top`: chooses the source of pages, and how they are shown."""

import logging
import sys
import time
from dataclasses import dataclass

from kpod_metrics.errors import KpodError, RefusedError
from kpod_metrics.settings import Settings
from kpod_metrics.top.columns import chosen
from kpod_metrics.top.frame import Choices
from kpod_metrics.top.plain import as_json, as_text
from kpod_metrics.top.sources import Access, LocalAgent, NoPageError, PageSource, RemoteAgent
from kpod_metrics.top.watch import Latest, Watch
from kpod_metrics.web.address import local_url


@dataclass(frozen=True)
class Options(Access):
    """What the user asks for. Each option of the command has a field with its name."""

    url: str
    """"" is the agent on this machine."""
    collect: bool
    interval: float
    """Seconds between two fetches."""
    once: bool
    json: bool
    sort: str
    filter: str


def run(options: Options, settings: Settings) -> int:
    """Show the table; raises SettingError or RefusedError."""
    once = options.once or options.json
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RefusedError("top needs a terminal: use --once or --json")
    # Log messages would overwrite the table, which shows problems itself.
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    source = _source(options, settings)
    watch = Watch(source, options.interval)
    try:
        if once:
            if source.own:
                print(f"kpod-metrics: {source.name}", file=sys.stderr)
            latest = _two_cycles(watch, min(options.interval, 0.5))
            found = chosen(latest.figures, options.sort, options.filter)
            print(as_json(found) if options.json else as_text(found))
            return 0
        from kpod_metrics.top.screen import show  # noqa: PLC0415 - --once works without curses

        watch.start()
        show(watch, Choices(sort=options.sort, filter=options.filter))
        return 0
    except ModuleNotFoundError as error:
        raise RefusedError(f"this Python lacks {error.name}: use --once") from None
    finally:
        watch.stop()
        source.close()


def _source(options: Options, settings: Settings) -> PageSource:
    """Return the agent at the URL or on this machine; without one, start an agent in this process."""
    if options.collect:
        return LocalAgent(settings, "own collection")
    endpoint = RemoteAgent(options.url or local_url(settings.listen), options)
    try:
        Watch(endpoint, options.interval).take()
    except NoPageError as error:
        if error.soon:
            return endpoint
        endpoint.close()
        reason = f"no agent at {endpoint.name} ({error})"
        if options.url:
            raise RefusedError(reason) from None
        try:
            return LocalAgent(settings, f"own collection, {reason}")
        except KpodError as refused:
            raise RefusedError(
                f"{reason}, and this process cannot collect: {refused}; --url sets another agent"
            ) from None
    return endpoint


def _two_cycles(watch: Watch, pause: float) -> Latest:
    """Wait for rates, which need two cycles. The timeout is three intervals of the agent, but at least ten seconds."""
    began = time.monotonic()
    timeout, problem = 10.0, ""
    while time.monotonic() - began < timeout:
        try:
            latest = watch.take()
            if latest.rated:
                return latest
            assert latest.reading is not None
            problem = f"no new cycle at {latest.source}; its interval is {latest.reading.interval:g} s"
            timeout = max(timeout, 3 * latest.reading.interval)
        except NoPageError as error:
            problem = f"{watch.latest.source}: {error}"
            if not error.soon:
                break
        time.sleep(pause)
    raise RefusedError(problem)
