"""The rendered pages: byte for byte, through the parsers of two other projects, and every value of them."""

import math
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.samples import Sample, shown
from kpod_metrics.exposition.text import OPENMETRICS, TEXT, decimal, escape
from kpod_metrics.histogram import Histogram, bucket_of_exponent
from kpod_metrics.metrics import Kind, Metric, Table, counter, gauge, latency
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store
from tests.growth import grow
from tests.unit.exposition.fixture import labels_of

HERE = Path(__file__).parent
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

FORMATS: dict[str, tuple[str, Callable[[str], Iterable[Family]]]] = {
    "golden.txt": (TEXT, parse_text),
    "golden.om": (OPENMETRICS, parse_openmetrics),
}


def expected(store: Store) -> Samples:
    """What a page of this store must say."""
    samples: Samples = {}

    def add(name: str, labels: dict[str, str], value: float) -> None:
        key = (name, tuple(sorted(labels.items())))
        assert key not in samples, f"twice: {key}"
        samples[key] = value

    for table, at, metric, children in store.families():
        for series in children:
            labels, value = labels_of(table, series), series.values[at]
            if isinstance(value, Histogram):
                for exponent in metric.exponents:
                    below = sum(value.buckets[: bucket_of_exponent(exponent) + 1])
                    add(f"{metric.name}_bucket", labels | {"le": repr(2.0**exponent)}, below)
                add(f"{metric.name}_bucket", labels | {"le": "+Inf"}, value.count)
                add(f"{metric.name}_sum", labels, value.sum_ns / 1e9)
                add(f"{metric.name}_count", labels, value.count)
            else:
                assert value is not None
                add(metric.name, labels, value)
    return samples


def samples_of(families: Iterable[Family]) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize("name", FORMATS)
def test_golden(name: str, page: Page) -> None:
    """After a change of declarations: `UPDATE_GOLDEN=1 pytest tests/unit/exposition`, and read the diff."""
    written = b"".join(page.pieces(FORMATS[name][0]))
    if UPDATE:
        (HERE / name).write_bytes(written)
    assert written == (HERE / name).read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_parsed_values_are_the_stores(name: str, page: Page, store: Store) -> None:
    kind, parse = FORMATS[name]
    families = list(parse(b"".join(page.pieces(kind)).decode()))
    assert samples_of(families) == expected(store)
    assert sum(len(family.samples) for family in families) == len(expected(store))


@pytest.mark.parametrize("name", FORMATS)
def test_families_have_type_help_and_unit(name: str, page: Page, store: Store) -> None:
    kind, parse = FORMATS[name]
    families = {family.name: family for family in parse(b"".join(page.pieces(kind)).decode())}
    declared = [metric for _, _, metric, _ in store.families()]
    assert len(families) == len(declared)
    for metric in declared:
        family = families[metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name]
        assert (family.type, family.documentation) == (metric.kind.value, metric.help)
        if name == "golden.om":
            unit = re.search(r"_(seconds|bytes|ratio)$", family.name)
            assert family.unit == (unit[1] if unit else "")


def test_openmetrics_ends(page: Page) -> None:
    assert b"".join(page.pieces(OPENMETRICS)).endswith(b"\n# EOF\n")
    assert b"# EOF" not in b"".join(page.pieces(TEXT))


def test_promtool_finds_nothing(page: Page, promtool: Path) -> None:
    result = subprocess.run(
        [promtool, "check", "metrics"], input=b"".join(page.pieces(TEXT)), capture_output=True, check=False, timeout=60
    )
    assert (result.returncode, result.stdout.decode(), result.stderr.decode()) == (0, "", "")


def test_promtool_would_find_something(promtool: Path) -> None:
    """Without this, a promtool that reads nothing would pass."""
    wrong = b"# HELP kpod_a_counter_total\n# TYPE kpod_a_counter_total gauge\nkpod_a_counter_total 1\n"
    result = subprocess.run([promtool, "check", "metrics"], input=wrong, capture_output=True, check=False, timeout=60)
    assert result.returncode
    assert b"kpod_a_counter_total" in result.stderr


def buckets(page: Page) -> Iterator[tuple[list[tuple[float, float]], float]]:
    """The buckets (bound, count) and the count of every histogram's child."""
    for family in parse_text(b"".join(page.pieces(TEXT)).decode()):
        if family.type == "histogram":
            found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    rest = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                    found.setdefault(rest, []).append((float(sample.labels["le"]), sample.value))
                elif sample.name.endswith("_count"):
                    yield found[tuple(sorted(sample.labels.items()))], sample.value


def test_buckets_are_cumulative(page: Page) -> None:
    children = list(buckets(page))
    assert children
    for pairs, count in children:
        assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(pairs))
        assert pairs[-1] == (math.inf, count)
        assert pairs[0][1] < count


TABLE = Table(
    (
        counter("kpod_things_total", 'Things \\ and\nsuch "quoted".', "test"),
        counter("kpod_level_bytes_total", "Level.", "test"),
        latency("kpod_wait_seconds", "Wait.", "test", exponents=(-20, 0, 6)),
    )
)
ME = Identity("n", "p", "c")


def test_what_is_absent_is_not_written() -> None:
    store = Store([TABLE], frozenset(TABLE.metrics))
    page = Renderer({"node": "x"}).render(store)
    assert (b"".join(page.pieces(TEXT)), b"".join(page.pieces(OPENMETRICS))) == (b"", b"# EOF\n")
    grow(store, TABLE, ME, (), (3, None, None))
    text = b"".join(Renderer({"node": "x"}).render(store).pieces(TEXT)).decode()
    assert 'kpod_things_total{namespace="n",pod="p",container="c",node="x"} 3\n' in text
    assert "kpod_level_bytes_total" not in text


def test_only_wanted_metrics_are_written() -> None:
    store = Store([TABLE], frozenset(TABLE.metrics[1:2]))
    grow(store, TABLE, ME, (), (3, 4, None))
    assert samples_of(parse_text(b"".join(Renderer({}).render(store).pieces(TEXT)).decode())) == {
        ("kpod_level_bytes_total", (("container", "c"), ("namespace", "n"), ("pod", "p"))): 4
    }


def test_help_is_escaped() -> None:
    store = Store([TABLE], frozenset(TABLE.metrics))
    grow(store, TABLE, ME, (), (3, 4, None))
    page = Renderer({}).render(store)
    assert b'# HELP kpod_things_total Things \\\\ and\\nsuch "quoted".\n' in b"".join(page.pieces(TEXT))
    assert b'# HELP kpod_things Things \\\\ and\\nsuch \\"quoted\\".\n' in b"".join(page.pieces(OPENMETRICS))


def test_second_render_has_new_numbers_under_the_same_labels() -> None:
    """The labels are cached with the series, the numbers must not be."""
    store, renderer = Store([TABLE], frozenset(TABLE.metrics)), Renderer({"node": "x"})
    for expected_total in (3, 6):
        grow(store, TABLE, ME, (), (3, None, None))
        [value] = [
            value
            for (name, _), value in samples_of(
                parse_text(b"".join(renderer.render(store).pieces(TEXT)).decode())
            ).items()
            if name == "kpod_things_total"
        ]
        assert value == expected_total


@pytest.mark.parametrize("kind", [TEXT, OPENMETRICS, PROTOBUF])
def test_page_of_a_cycle_in_which_nothing_came(kind: str) -> None:
    """What is kept of the page before is the same, in each of its uses, and is not kept once there is other."""

    def write(page: Page) -> bytes:
        return b"".join(page.pieces(kind))

    store, renderer = Store([TABLE], frozenset(TABLE.metrics)), Renderer({"node": "x"})
    grow(store, TABLE, ME, (), (3, 0.5, None))
    first, second, third = (renderer.render(store) for _ in range(3))
    assert first.families[0] is second.families[0] is third.families[0]
    fresh = write(Renderer({"node": "x"}).render(store))
    assert [write(page) for page in (first, second, second, third)] == [fresh] * 4
    store.retain(())
    assert write(renderer.render(store)) == write(Renderer({"node": "x"}).render(store)) != fresh
    assert renderer.render(store).families == []
    assert write(second) == fresh


def test_sample_of_a_value_that_is_back_is_the_one_before() -> None:
    """It is written once; but a whole number is another thing than one that is equal to it."""
    table = Table((gauge("kpod_level_bytes", "Level.", "test"), gauge("kpod_other_bytes", "Other.", "test")))
    store, renderer = Store([table], frozenset(table.metrics)), Renderer({})

    def level(value: float) -> Sample:
        for values in ((None, 1), (value, 1)):
            store.begin_cycle(table)
            grow(store, table, ME, (), values)
            families = renderer.render(store).families
        return families[0].samples[0]

    first = level(float("1e6"))
    assert level(float("1e6")) is first
    assert level(10**6) is not first
    assert type(level(10**6).value) is int


@given(st.floats() | st.integers(-(2**70), 2**70))
@example(math.inf)
@example(-math.inf)
@example(math.nan)
@example(-0.0)
@example(2**64)
def test_numbers_come_back(value: float) -> None:
    written = decimal(value).decode()
    back = int(written) if isinstance(value, int) else float(written)
    assert back == value or (math.isnan(back) and math.isnan(value))
    assert math.copysign(1, back) == math.copysign(1, value) or math.isnan(value)
    # Prometheus' own spelling of what is no number; anything else as Go's ParseFloat reads it.
    assert re.fullmatch(r"[+-]Inf|NaN|-?\d+(\.\d+)?(e[+-]\d+)?", written)


@given(st.text())
@example("\\x5c")
def test_escaped_labels_come_back(value: str) -> None:
    written = escape(value)
    assert "\n" not in written
    assert not re.search(r'(?<!\\)(\\\\)*"', written)
    assert re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], written) == shown(value)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("\r")
@example("\x85\u2028")
@example("trailing\\")
@example("\\x5c")
def test_any_label_is_parsed_by_both_parsers(value: str) -> None:
    store = Store([TABLE], frozenset(TABLE.metrics[:1]))
    grow(store, TABLE, Identity("n", value, ""), (), (1, None, None))
    page = Renderer({}).render(store)
    for kind, parse in FORMATS.values():
        [(_, labels)] = samples_of(parse(b"".join(page.pieces(kind)).decode()))
        assert dict(labels)["pod"] == shown(value)


def test_names_that_differ_in_bytes_that_are_no_utf8_stay_apart() -> None:
    shown = [escape(os.fsdecode(name)) for name in (b"a\xff", b"a\xfe", b"a", "aÿ".encode(), b"\xed\xa0\x80")]
    assert shown == [r"a\\xff", r"a\\xfe", "a", "aÿ", r"\\xed\\xa0\\x80"]


def test_no_two_names_are_shown_as_one() -> None:
    """A byte that is no UTF-8, and its escape standing literally; what systemd escapes stays as it is."""
    names = [
        b"a\xff",
        rb"a\xff",
        rb"a\x5cxff",
        rb"a\x5cx5cxff",
        b"a\\\xff",
        rb"a\x5c\xff",
        "ÿ\\xff".encode(),
        "ÿ".encode(),
    ]
    assert len({shown(os.fsdecode(name)) for name in names}) == len(names)
    assert shown(os.fsdecode(rb"a\xff")) == r"a\x5cxff"
    assert shown(r"dev-disk-by\x2duuid-1\x2d2") == r"dev-disk-by\x2duuid-1\x2d2"


@given(
    st.lists(st.binary(max_size=8), unique=True, min_size=2), st.sampled_from([b"", rb"\x", b"x5c", b"xff", b"\xff"])
)
def test_names_that_differ_are_shown_differently(names: list[bytes], between: bytes) -> None:
    joined = {between.join([name[:4], name[4:]]) for name in names}
    assert len({shown(os.fsdecode(name)) for name in joined}) == len(joined)


def test_metric_of_fixture_covers_all_kinds(store: Store) -> None:
    kinds: set[Kind] = set()
    metrics: list[Metric] = []
    for _, _, metric, _ in store.families():
        kinds.add(metric.kind)
        metrics.append(metric)
    assert kinds == set(Kind)
    assert len({metric.name for metric in metrics}) == len(metrics)
