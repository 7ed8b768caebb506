"""The exchange in a process of its own: found, started, stopped, and refused in one sentence."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from resources.errors import Unavailable
from resources.settings import load_settings
from streamforge_assets.simulator.process import running, start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(home, port, **more):
    return load_settings(home=home, rest_url=f"http://127.0.0.1:{port}", simulator_symbols=2, **more)


def healthy(port) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return response.status == 200
    except (URLError, OSError):
        return False


async def test_it_is_started_shared_and_stopped(tmp_path):
    port = free_port()
    async with running(settings(tmp_path, port)) as first:
        assert first.started
        async with running(settings(tmp_path, port)) as second:
            assert not second.started
        assert await asyncio.to_thread(healthy, port), "a shared exchange outlives its guest"
        with pytest.raises(Unavailable, match="seed 7"):
            await asyncio.to_thread(start, settings(tmp_path, port, simulator_seed=8))
    assert not healthy(port)


def test_a_port_taken_by_something_else_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.settimeout(20)

        import threading

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Unavailable, match="not the simulated exchange"):
            start(settings(tmp_path, port))


def test_it_ends_with_its_starter(tmp_path):
    port = free_port()
    code = (
        "import sys, time; from resources.settings import load_settings;"
        "from streamforge_assets.simulator.process import start;"
        f"home, url = {str(tmp_path)!r}, 'http://127.0.0.1:{port}';"
        "exchange = start(load_settings(home=home, rest_url=url, simulator_symbols=2));"
        "print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        assert healthy(port)
    finally:
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
    limit = time.monotonic() + 10
    while healthy(port):
        assert time.monotonic() < limit
        time.sleep(0.05)
