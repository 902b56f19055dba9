"""Headless Chromium, driven over its debugging pipe: JSON messages that end in a NUL, on descriptors 3 and 4.

The protocol is described at chromedevtools.github.io/devtools-protocol.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# As root there is no sandbox; the rest is for a machine that reaches nothing but itself.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

Message = dict[str, Any]


class Chromium:
    """A running browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer = b""
        self._last = 0
        self.events: list[Message] = []

    def call(self, method: str, session: str = "", **parameters: Any) -> Message:
        """Send a command, return its result; events that come meanwhile are kept."""
        self._last += 1
        message: Message = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: Message = answer["result"]
        return result

    def wait(self, method: str, session: str) -> None:
        """Wait for an event."""
        while not any(e["method"] == method and e.get("sessionId") == session for e in self.events):
            self.events.append(self._next())

    def _next(self) -> Message:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: Message = json.loads(line)
        return message


class Tab:
    """An open page. `complaints` are errors and warnings of its console, its log, its requests."""

    def __init__(self, browser: Chromium, url: str, width: int, height: int, scheme: str) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network", "Audits"):
            self._call(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=url)
        browser.wait("Page.loadEventFired", self._session)

    def _call(self, method: str, **parameters: Any) -> Message:
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        picture = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def roles(self) -> list[tuple[str, str]]:
        """Roles and names in the accessibility tree."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]

    @property
    def requests(self) -> list[str]:
        """What it asked for."""
        return [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[Message]:
        """What the browser has to say against it."""
        self.evaluate("0")  # what came before the answer is there
        faults = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed", "Audits.issueAdded")
        said = [e["params"]["entry"] for e in self._events("Log.entryAdded") if e["params"]["entry"]["level"] != "info"]
        return said + [event["params"] for event in self._events(*faults)]

    def _events(self, *methods: str) -> Iterator[Message]:
        return (e for e in self._browser.events if e["method"] in methods and e.get("sessionId") == self._session)


@contextmanager
def chromium(program: Path, folder: Path) -> Iterator[Chromium]:
    """A browser with an empty profile in `folder`; gone at the end, and its children with it."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def descriptors() -> None:
        # Moved out of the way first: the ends may have these very numbers.
        read, write = os.dup(to_read), os.dup(from_write)
        high_read, high_write = 100, 101
        os.dup2(read, high_read)
        os.dup2(write, high_write)
        os.dup2(high_read, 3)
        os.dup2(high_write, 4)
        os.close(high_read)
        os.close(high_write)

    command: list[str | Path] = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    environment = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            preexec_fn=descriptors,  # noqa: PLW1509
            close_fds=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(to_read)
    os.close(from_write)
    browser = Chromium(to_write, from_read)
    try:
        yield browser
        browser.call("Browser.close")
        process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(to_write)
        os.close(from_read)
