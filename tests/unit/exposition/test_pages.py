"""The published page: whole, in each format, written at most once a cycle."""

import gzip
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.exposition.pages import Published
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.metrics import Label, Scope, Table, gauge
from kpod_metrics.store import Store
from tests.client_model import decode

TABLE = Table((gauge("kpod_test", "Test.", "test"),), (Label("at", per="test"),), Scope.AGENT)
VARIANTS = [(kind, zipped) for kind in (TEXT, OPENMETRICS, PROTOBUF) for zipped in (False, True)]


class CountedPage(Page):
    """A page that counts how often each format is written."""

    def __init__(self, value: int) -> None:
        store = Store([TABLE], frozenset(TABLE.metrics))
        for at in range(200):
            store.set(TABLE, (str(at),), (value,))
        page = Renderer({}).render(store)
        super().__init__(page.families, page.labels)
        self.written: Counter[str] = Counter()

    def pieces(self, content_type: str) -> Iterator[bytes]:
        self.written[content_type] += 1
        return super().pieces(content_type)


def expected(page: Page, kind: str) -> bytes:
    return b"".join(page.pieces(kind))


def values(kind: str, body: bytes) -> set[int]:
    """The values of a page's samples."""
    if kind == PROTOBUF:
        return {int(one.gauge.value) for family in decode(body) for one in family.metric}
    return {int(line.split()[1]) for line in body.splitlines() if not line.startswith(b"#")}


def test_not_ready_before_the_first_page() -> None:
    published = Published()
    assert published.page is None
    published.publish(CountedPage(1))
    assert published.page is not None


@pytest.mark.parametrize(("kind", "zipped"), VARIANTS)
def test_every_format_is_the_newest_page(kind: str, zipped: bool) -> None:
    published = Published()
    for value in range(3):
        page = CountedPage(value)
        published.publish(page)
        body = published.get(kind, zipped)
        assert (gzip.decompress(body) if zipped else body) == expected(page, kind)


def test_format_is_written_once_a_cycle() -> None:
    published = Published()
    page = CountedPage(1)
    published.publish(page)
    assert page.written == {}
    for _ in range(3):
        for kind, zipped in VARIANTS:
            published.get(kind, zipped)
    assert page.written == {TEXT: 1, OPENMETRICS: 1, PROTOBUF: 1}


def test_format_asked_for_lately_is_written_in_advance() -> None:
    published = Published()
    published.publish(CountedPage(0))
    published.get(TEXT, True)
    page = CountedPage(1)
    published.publish(page)
    assert page.written == {TEXT: 1}
    published.get(TEXT, True)
    assert page.written == {TEXT: 1}


def test_format_nobody_asks_for_any_more_is_not_written() -> None:
    published = Published()
    published.publish(CountedPage(0))
    published.get(OPENMETRICS, False)
    pages = [CountedPage(value) for value in range(50)]
    for page in pages:
        published.publish(page)
    written = [bool(page.written) for page in pages]
    assert written[0]
    assert not written[-1]
    assert written == sorted(written, reverse=True)


def test_page_is_never_a_mixture() -> None:
    """Scrapes on several threads while pages are published: each gets all of one page."""
    published = Published()
    published.publish(CountedPage(1))
    done = threading.Event()
    wrong: list[bytes] = []
    newest: list[int] = []

    def scrape() -> None:
        last, over = 0, False
        while not over:
            over = done.is_set()
            for kind, zipped in VARIANTS:
                body = published.get(kind, zipped)
                found = values(kind, gzip.decompress(body) if zipped else body)
                if len(found) != 1 or min(found) < last:
                    wrong.append(body)
                    return
                last = min(found)
        newest.append(last)

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(2, 200):
        published.publish(CountedPage(value))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert newest == [199] * 3
