"""What a scrape of /metrics costs a server, busy or idle: median and worst of many, over HTTP.

python benchmarks/scrape.py http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import statistics
import time

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url")
    parser.add_argument("--scrapes", type=int, default=200)
    arguments = parser.parse_args()
    seconds, size = [], 0
    with httpx.Client(base_url=arguments.url) as client:
        for _ in range(arguments.scrapes):
            start = time.perf_counter()
            size = len(client.get("/metrics").raise_for_status().content)
            seconds.append(time.perf_counter() - start)
    milliseconds = sorted(1000 * value for value in seconds)
    print(
        f"{len(milliseconds)} scrapes of {size} bytes: median {statistics.median(milliseconds):.2f} ms, "
        f"p95 {milliseconds[int(0.95 * len(milliseconds))]:.2f} ms, worst {milliseconds[-1]:.2f} ms"
    )


if __name__ == "__main__":
    main()
