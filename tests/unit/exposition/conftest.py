"""What the formats' tests share: one store with every metric, and its page."""

import pytest

from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.store import Store
from tests.unit.exposition.fixture import CONSTANT, EXTRA, filled


@pytest.fixture(scope="module")
def store() -> Store:
    return filled()


@pytest.fixture(scope="module")
def page(store: Store) -> Page:
    return Renderer(CONSTANT, EXTRA).render(store)
