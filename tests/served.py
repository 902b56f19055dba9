"""An endpoint on its own thread, for a test that asks it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kpod_metrics.web.endpoint import Endpoint


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
