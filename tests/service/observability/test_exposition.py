"""The text of /metrics equals that of the installed prometheus-client, without the `_created` series."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.observability.exposition import Exposition


def lines(text: bytes) -> list[str]:
    """Return the lines in sorted order, since our text has the gauges last."""
    return sorted(line for line in text.decode().splitlines() if "_created" not in line)


class Some:
    """A counter and a histogram with labels, one of each without, and a gauge."""

    def __init__(self) -> None:
        self.registry, others = CollectorRegistry(), CollectorRegistry()
        self.registry.register(others)
        self.counter = Counter("fed_total", "Cats fed", ["cat", "where"], registry=self.registry)
        self.plain = Counter("opened_total", "Tins opened", registry=self.registry)
        self.histogram = Histogram("nap_seconds", "Naps", ["cat"], buckets=(0.5, 1e3, 1e7), registry=self.registry)
        self.bare = Histogram("purr_seconds", "Purrs", registry=self.registry)
        Gauge("cats", "Cats now", registry=others).set(3)
        self.exposition = Exposition((self.counter, self.plain, self.histogram, self.bare), others)

    def check(self) -> str:
        """Compare with the library's text, and return ours."""
        rendered = self.exposition.render()
        assert lines(rendered) == lines(generate_latest(self.registry))
        return rendered.decode()


def test_the_text_is_that_of_the_installed_library_at_every_stage() -> None:
    some = Some()
    some.check()
    some.counter.labels("Tom", "kitchen").inc()
    some.plain.inc(1234567.5)
    some.histogram.labels("Tom").observe(0.25)
    some.check()
    some.histogram.labels("Tom").observe(5e3)
    some.histogram.labels("Kit").observe(1e9)
    some.bare.observe(0.1)
    some.check()


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "two\nlines", "Ünïcode", ""])
def test_label_values_are_escaped(name: str) -> None:
    some = Some()
    some.counter.labels(name, "kitchen").inc()
    text = some.check()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert [sample.labels["cat"] for sample in found if sample.name == "fed_total"] == [name]


def test_series_that_are_removed_are_gone_and_start_at_nought_when_they_come_back() -> None:
    some = Some()
    for _ in range(2):
        some.histogram.labels("Tom").observe(1)
        assert 'nap_seconds_count{cat="Tom"} 1.0' in some.check()
        some.histogram.remove("Tom")
        assert "Tom" not in some.check()


def test_the_private_parts_that_are_read_exist() -> None:
    """exposition.py reads private parts of prometheus-client. Check that the installed version has them."""
    some = Some()
    for metric in (some.counter, some.histogram):
        assert all(hasattr(metric, part) for part in ("_name", "_documentation", "_type", "_labelnames", "_lock", "_metrics"))
    assert hasattr(some.counter.labels("Tom", "kitchen"), "_value")
    child = some.histogram.labels("Tom")
    assert all(hasattr(child, part) for part in ("_labelvalues", "_upper_bounds", "_buckets", "_sum"))


def test_no_series_tells_when_others_began() -> None:
    some = Some()
    some.counter.labels("Tom", "kitchen").inc()
    assert "_created" not in some.check()
