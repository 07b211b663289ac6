"""The text of /metrics, with everything but the numbers kept from scrape to scrape.

prometheus_client.generate_latest builds, sorts and escapes the labels of every sample at every scrape. With some two thousand
samples that takes many milliseconds, during which neither the event loop nor the engine's thread can run Python. Here the text
of each series up to its value is made once, and a series that has not changed since the last scrape is not rendered again. The
output is that of generate_latest without the `_created` series, which double the counters and which no rule or panel reads.

This file reads private parts of the metrics, as the library's own collect() does: collect() alone builds a dictionary for
every sample, and takes ten times as long as all of `render`. tests/service/observability/test_exposition.py compares the text
with generate_latest of the installed version, so an upgrade that changes these parts is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias, cast
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.utils import floatToGoString

Instrument: TypeAlias = Counter | Histogram
_number: Callable[[float], str] = floatToGoString


class Exposition:
    """Renders counters and histograms, which are nearly all series, and then a registry with all other metrics."""

    def __init__(self, instruments: Iterable[Instrument], others: CollectorRegistry) -> None:
        self._instruments = tuple(instruments)
        self._others = others
        # For each child: the text before each value, the values at the last scrape, and the lines that they made.
        self._kept: WeakKeyDictionary[Instrument, tuple[Sequence[str], list[float], str]] = WeakKeyDictionary()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        lines: list[str] = []
        for instrument in self._instruments:
            name = f"{instrument._name}_total" if isinstance(instrument, Counter) else instrument._name
            lines += f"# HELP {name} {instrument._documentation}\n", f"# TYPE {name} {instrument._type}\n"
            for child in _children(instrument):
                prefixes, last, text = self._kept.get(child) or (tuple(_prefixes(child, name)), [], "")
                if (values := _values(child)) != last:
                    text = "".join(f"{prefix}{_number(value)}\n" for prefix, value in zip(prefixes, values, strict=True))
                    self._kept[child] = prefixes, values, text
                lines.append(text)
        return "".join(lines).encode() + generate_latest(self._others)


def _children(instrument: Instrument) -> Sequence[Instrument]:
    """Return the child of each combination of labels that has been used."""
    if not instrument._labelnames:
        return [instrument]
    with instrument._lock:
        return cast(list[Instrument], list(instrument._metrics.values()))


def _values(child: Instrument) -> list[float]:
    """Return the values of the child's samples, in the order of _prefixes."""
    if isinstance(child, Counter):
        return [child._value.get()]
    at_most = list(accumulate(bucket.get() for bucket in child._buckets))
    return [*at_most, at_most[-1], child._sum.get()]


def _prefixes(child: Instrument, name: str) -> Iterator[str]:
    """Yield the text of the child's samples up to each value: `name{label="value",...} `."""
    labels = dict(zip(child._labelnames, child._labelvalues, strict=True))
    if isinstance(child, Counter):
        yield _prefix(name, labels)
        return
    for bound in child._upper_bounds:
        yield _prefix(f"{name}_bucket", labels | {"le": _number(bound)})
    yield _prefix(f"{name}_count", labels)
    yield _prefix(f"{name}_sum", labels)


def _prefix(name: str, labels: dict[str, str]) -> str:
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}} " if pairs else f"{name} "


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
