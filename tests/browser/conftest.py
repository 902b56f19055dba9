"""A browser for all tests here."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, chromium


@pytest.fixture(scope="package")
def browser(installed: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(installed("chromium"), tmp_path_factory.mktemp("chromium")) as started:
        yield started
