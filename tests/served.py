"""An endpoint on its own thread, for a test that asks it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kpod_metrics.web.endpoint import Endpoint

WITHOUT_BUFFERS = {"0A", "06"}
"""LISTEN and TIME_WAIT, in /proc/net/tcp (include/net/tcp_states.h)."""


@contextmanager
def served(*endpoints: Endpoint) -> Iterator[None]:
    """Serve until the end; what fails there fails the test."""
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []
    tasks = [loop.create_task(endpoint.run()) for endpoint in endpoints]

    async def both() -> None:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*(endpoint.close(1.0) for endpoint in endpoints))
        for task in done:
            with suppress(asyncio.CancelledError):
                task.result()

    def run() -> None:
        try:
            loop.run_until_complete(both())
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as error:
            failed.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(tasks[0].cancel)
        thread.join()
    assert not failed, failed


def orphans(port: int) -> int:
    """Bytes that the kernel still has to send for closed sockets of a port: no process has them, so no limit counts."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[9] == "0" and fields[3] not in WITHOUT_BUFFERS:
            found += int(fields[4].partition(":")[0], 16)
    return found
