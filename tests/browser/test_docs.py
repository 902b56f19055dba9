"""The documentation's site in a real browser: it fits, nothing complains, and all of it comes from itself."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.chromium import Chromium, Tab
from tests.conftest import REPOSITORY

PAGES = sorted(path.stem for path in (REPOSITORY / "docs").glob("*.md"))


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "properdocs", "build", "--site-dir", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page == "index" else pytest.mark.slow) for page in PAGES]
)
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")], ids=["telephone", "desk"])
def test_fits_and_nothing_complains(browser: Chromium, site: str, page: str, width: int, scheme: str) -> None:
    tab = Tab(browser, f"{site}{page}.html", width, 740, scheme)
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith((site, "data:"))] == []
    dark = tab.evaluate("document.documentElement.getAttribute('data-bs-theme')")
    assert dark == scheme


def test_picture_is_drawn(browser: Chromium, site: str) -> None:
    tab = Tab(browser, f"{site}concepts.html", 1280, 740, "light")
    width, text = tab.evaluate(
        "[document.querySelector('img[src$=\"data-path.svg\"]').naturalWidth, "
        "document.querySelector('img[src$=\"data-path.svg\"]').alt]"
    )
    assert width == 960
    assert text == "The data path"
