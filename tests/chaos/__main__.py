"""`make chaos`: every experiment at full size, and the report as one table."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.experiments import EXPERIMENTS, Finding, table
from tests.chaos.stage import FULL, SHORT, Difference, open_stage
from tests.servers.kafka import ServerFailed
from tests.servers.software import NotAvailable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of {','.join(EXPERIMENTS)}")
    parser.add_argument("--short", action="store_true", help="at the size of the tests")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(EXPERIMENTS)
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    folder = Path(tempfile.mkdtemp(prefix="streamforge-chaos-"))
    findings: list[Finding] = []
    try:
        with open_stage(folder, SHORT if arguments.short else FULL) as stage:
            for name in names:
                print(f"{name} ...", file=sys.stderr, flush=True)
                try:
                    findings += EXPERIMENTS[name](stage)
                except AssertionError as error:  # the others are worth knowing all the same
                    print(error, file=sys.stderr)
                    why = " ".join(str(error).split())[-300:]
                    findings.append(Finding(name, "", Difference(0, 0, 0, 0), 0, 0, [], [why]))
                print(table(findings[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    except (NotAvailable, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(findings))
    if not all(one.holds for one in findings):
        print(f"what they left is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
