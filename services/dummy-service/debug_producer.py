"""Send one command to a worker, and wait for its answer: `debug_producer.py --queue-id ID --command ping`.

Exit codes: 0 the command is sent (and the pong came, where it was expected); 1 no pong came in time, or the bus
does not answer; 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time

from resources.bus import Message, Subscription, open_bus
from resources.errors import Rejected, StreamForgeError
from resources.messages import CONTROL_TOPIC, EVENTS_TOPIC, ControlMessage, EventMessage, decode_event, encode
from resources.settings import load_settings

FAILED = 1


def main() -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue-id", required=True, help="the workflow whose worker is meant")
    parser.add_argument("--command", required=True, choices=["ping", "stop", "start"])
    parser.add_argument("--expect-pong", action="store_true", help="wait for the answer to a ping")
    parser.add_argument("--target", default="dummy-service", help="the worker, such as loader-producer")
    parser.add_argument("--telemetry-id", default="", help="only this start of it")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for the pong (default 10)")
    given = parser.parse_args()
    if given.expect_pong and given.command != "ping":
        parser.error(f"a {given.command} is not answered with a pong; leave out --expect-pong")
    try:
        print(asyncio.run(send(given)))  # noqa: T201  # this is a command
    except StreamForgeError as error:
        sys.stderr.write(f"debug_producer: {error}\n")
        return FAILED
    return 0


async def send(given: argparse.Namespace) -> str:
    """Send the command and return what to tell the user.

    Raises:
        Rejected: no pong came in time.
        Unavailable: the bus does not answer.
    """
    command = ControlMessage(
        command=given.command, queue_id=given.queue_id, target=given.target, telemetry_id=given.telemetry_id
    )
    group = f"debug-producer-{secrets.token_hex(3)}"
    async with (
        open_bus(load_settings()) as bus,
        # Subscribed before it asks, so that no answer can be missed.
        bus.subscribe(EVENTS_TOPIC, group=group, start="latest") as events,
    ):
        began = time.monotonic()
        await bus.publish(CONTROL_TOPIC, [Message(encode(command), given.queue_id)])
        if not given.expect_pong:
            return f"sent {given.command} to {given.target} of {given.queue_id}"
        try:
            pong = await asyncio.wait_for(_pong(events, given), given.timeout)
        except TimeoutError as error:
            raise Rejected(
                f"no pong came from {given.target} of {given.queue_id} within {given.timeout:g} s: it does not"
                " run, has another --queue-id or --target, or uses another bus"
            ) from error
        return f"pong from {pong.producer} after {time.monotonic() - began:.2f} s"


async def _pong(events: Subscription, given: argparse.Namespace) -> EventMessage:
    while True:
        for delivery in await events.receive(timeout=0.5):
            try:
                event = decode_event(delivery.message.value)
            except Rejected:
                continue  # somebody else's broken message
            mine = event.queue_id == given.queue_id and given.telemetry_id in {"", event.producer}
            if mine and event.status == "pong" and event.producer.partition("__")[0] == given.target:
                return event


if __name__ == "__main__":
    sys.exit(main())
