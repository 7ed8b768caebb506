"""`python -m benchmarks [--only NAME,...]`: every figure a ratio against a named reference of the same run."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.result import Result

MODULES = (
    "archive_ingest",
    "range_read",
    "dagster_share",
    "rest_paging",
    "kafka_bus",
    "workers",
    "event_visible",
    "graph_build",
    "edge_recovery",
    "forecast_share",
    "throughput",
)
REPORT = Path(".streamforge/bench.json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of {', '.join(MODULES)}")
    chosen = [name for name in parser.parse_args().only.split(",") if name] or list(MODULES)
    unknown = sorted(set(chosen) - set(MODULES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(MODULES)}")
    results: list[Result] = []
    print(f"{'benchmark':<24}{'value':>9}  {'target':>8}  {'':<5}{'unit':<24}against")
    for name in chosen:
        for result in importlib.import_module(f"benchmarks.{name}").run():
            results.append(result)
            verdict = "ok" if result.ok else "MISS"
            print(
                f"{result.name:<24}{result.value:>9.3g}  {result.target:>8.3g}  {verdict:<5}{result.unit:<24}"
                f"{result.reference}",
                flush=True,
            )
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
