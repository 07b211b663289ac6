"""Print the results of the benchmarks as Markdown, for docs/performance.md.

python -m benchmarks.report FOLDER        a section for each FOLDER/<program>.json that exists
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import common, cpu, efficiency, peers, scaling

SECTIONS = {
    "cpu": ("Options and runtimes on a CPU", cpu.report),
    "efficiency": ("What serving costs", efficiency.report),
    "peers": ("Beside other servers", peers.report),
    "scaling": ("Clients and queues", scaling.report),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where each program wrote its --out <program>.json")
    folder = parser.parse_args().folder
    for name, (title, report) in SECTIONS.items():
        result = common.resume(folder / f"{name}.json")
        if result:
            print(f"## {title}\n\n    python -m benchmarks.{name} --out {name}.json\n")
            report(result)
            print()


if __name__ == "__main__":
    main()
