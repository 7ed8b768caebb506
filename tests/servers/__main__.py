"""A broker to play with, until Ctrl-C (`make kafka`), or for as long as a command runs (`make demo BUS=kafka`)."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.kafka import Kafka, ServerFailed
from tests.servers.software import NotAvailable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="brokers of the cluster")
    parser.add_argument("--port", type=int, help="of the first broker; the others follow (9092)")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, help="a command to run on the brokers, with worker processes"
    )
    arguments = parser.parse_args()
    first = arguments.port or (None if arguments.run else 9092)
    ports = None if first is None else [first + number for number in range(arguments.nodes)]
    folder = Path(tempfile.mkdtemp(prefix="streamforge-kafka-"))
    try:
        with Kafka(folder, arguments.nodes, ports=ports) as kafka:
            if arguments.run:
                return run(arguments.run, kafka)
            print(
                f"Kafka serves at {kafka.bootstrap}; its logs are in {folder}\n\n"
                f"export STREAMFORGE_BUS=kafka STREAMFORGE_KAFKA_BOOTSTRAP={kafka.bootstrap}\n\n"
                "Ctrl-C ends it and removes what it holds.",
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        print()
    except (NotAvailable, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def run(command: list[str], kafka: Kafka) -> int:
    """Run `command` with settings that point to the brokers, and give its exit code."""
    chosen = {"BUS": "kafka", "LAUNCHER": "process", "KAFKA_BOOTSTRAP": kafka.bootstrap}
    settings = {f"STREAMFORGE_{name}": value for name, value in chosen.items()}
    with subprocess.Popen(command, env=os.environ | settings) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal interrupts the command as well, which ends in order


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell had SIGINT ignored
        signal.signal(ending, signal.default_int_handler)
    sys.exit(main())
