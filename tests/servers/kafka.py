"""Real Kafka brokers in KRaft mode, owned by whoever runs the tests: they end with this process, at the latest."""

from __future__ import annotations

import base64
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.servers.software import class_archive, java, kafka_jars, keep_class_archive
from tests.servers.tls import Secured

READY_LIMIT = 90.0
STOP_LIMIT = 1.5
ARCHIVE_LIMIT = 20.0
MEMORY = "320m"
SESSION_TIMEOUT = 3.0
"""Seconds of silence after which the controller believes a broker dead."""

_READY = "Kafka Server started"
_LOGGING = Path(__file__).with_name("log4j2.yaml")
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """A server did not come up. The message ends with the last lines of its log."""


@dataclass
class Node:
    """One process: broker and controller in one. `number` counts from 1."""

    number: int
    folder: Path
    ports: Mapping[str, int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Kafka:
    """A cluster of one or three nodes below `folder`. Blocking: start it before the event loop, or in between.

    Three nodes keep three replicas of everything and need two of them for a write. Start it in the main thread:
    its processes are killed when the thread that started them ends, however it ends.

    Args:
        folder: an empty folder for logs, configuration and data.
        size: 1 or 3.
        secured: TLS, SCRAM users and an authorizer on the clients' listener; None: plain text, no users.
        advertised: the port that each node tells its clients, such as a proxy's; None: its own.
        ports: where each node serves clients; None: any free ones.
    """

    folder: Path
    size: int = 1
    secured: Secured | None = None
    advertised: Sequence[int] | None = None
    ports: Sequence[int] | None = None
    nodes: list[Node] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = free_ports(3 * self.size)
        for number in range(1, self.size + 1):
            names = ("client", "internal", "controller")
            ports = dict(zip(names, free[3 * number - 3 : 3 * number], strict=True))
            if self.ports:
                ports["client"] = self.ports[number - 1]
            self.nodes.append(Node(number, self.folder / f"node{number}", ports))
        try:
            self._format()
            for node in self.nodes:
                self._launch(node)
            for node in self.nodes:
                self._await_ready(node)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        """The addresses that clients begin with, `host:port,host:port`."""
        host = "localhost" if self.secured else "127.0.0.1"
        return ",".join(f"{host}:{self._advertised(node)}" for node in self.nodes)

    def kill(self, number: int) -> None:
        """End a node as a power cut would: SIGKILL."""
        node = self.nodes[number - 1]
        if node.process is not None:
            node.process.kill()
            node.process.wait()

    def terminate(self, number: int) -> None:
        """Ask a node to end, and wait until it has handed over its leaderships."""
        node = self.nodes[number - 1]
        if node.process is not None:
            node.process.terminate()
            node.process.wait(timeout=READY_LIMIT)

    def restart(self, number: int) -> None:
        """Start a node that ended, on the data that it had; returns once it serves."""
        self.launch(number)
        self.await_ready(number)

    def launch(self, number: int) -> None:
        """The first half of `restart`, which takes no time. The broker ends with the thread that called this."""
        node = self.nodes[number - 1]
        if not node.alive:
            self._launch(node)

    def await_ready(self, number: int) -> None:
        """The second half of `restart`, in any thread."""
        self._await_ready(self.nodes[number - 1])

    def pause(self, number: int) -> None:
        """Stop a node's process without ending it: its connections stay open and nobody answers."""
        self._signal(number, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """Let a paused node go on."""
        self._signal(number, signal.SIGCONT)

    def close(self) -> None:
        """End all nodes. Nothing is handed over: their data is not needed any more."""
        running = [node.process for node in self.nodes if node.process is not None and node.alive]
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + (ARCHIVE_LIMIT if self._archives else STOP_LIMIT)
        for process in running:
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._archives and self.nodes:
            keep_class_archive(kafka_jars(), self.nodes[0].folder)

    @property
    def _archives(self) -> bool:
        """Whether this broker leaves an archive of its loaded classes, with which later ones start 2 s sooner.

        It takes some seconds at the end, once on a machine; where everything is thrown away it would not pay.
        """
        return self.size == 1 and not os.environ.get("CI") and not class_archive(kafka_jars()).exists()

    def _signal(self, number: int, what: signal.Signals) -> None:
        process = self.nodes[number - 1].process
        if process is not None:
            process.send_signal(what)

    def _advertised(self, node: Node) -> int:
        return self.advertised[node.number - 1] if self.advertised else node.ports["client"]

    def _format(self) -> None:
        cluster = cluster_id()
        users = self.secured.scram() if self.secured else []
        formatting = []
        for node in self.nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            node.config.write_text("".join(f"{key}={value}\n" for key, value in self._properties(node).items()))
            arguments = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(node.config)]
            for user in users:
                arguments += ["--add-scram", user]
            formatting.append((node, self._java(node, arguments)))
        for node, process in formatting:
            if process.wait(timeout=READY_LIMIT):
                raise ServerFailed(f"Kafka's storage could not be formatted: {_tail(node.log)}")

    def _launch(self, node: Node) -> None:
        with node.log.open("a") as log:
            log.write(f"--- start {time.time()}\n")
        node.process = self._java(node, ["kafka.Kafka", str(node.config)])

    def _java(self, node: Node, arguments: list[str]) -> subprocess.Popen[bytes]:
        jars = kafka_jars()
        options = [f"-Xmx{MEMORY}", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        if class_archive(jars).exists():
            options.append(f"-XX:SharedArchiveFile={class_archive(jars)}")
        elif self._archives and arguments[0] == "kafka.Kafka":
            options.append(f"-XX:ArchiveClassesAtExit={node.folder / class_archive(jars).name}")
        # One by one, because an archive of classes serves only the very same class path.
        path = ":".join(str(jar) for jar in sorted(jars.glob("*.jar")))
        command = [java(), *options, f"-Dlog4j2.configurationFile={_LOGGING}", "-cp", path, *arguments]
        with node.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and we end the brokers
                preexec_fn=_end_with_parent,  # noqa: PLW1509
            )

    def _await_ready(self, node: Node) -> None:
        deadline = time.monotonic() + READY_LIMIT
        while time.monotonic() < deadline:
            if _READY in node.log.read_text(errors="replace").rpartition("--- start")[2]:
                return
            if not node.alive:
                raise ServerFailed(f"broker {node.number} ended: {_tail(node.log)}")
            time.sleep(0.05)
        raise ServerFailed(f"broker {node.number} was not ready within {READY_LIMIT:.0f} s: {_tail(node.log)}")

    def _properties(self, node: Node) -> dict[str, object]:
        voters = ",".join(f"{other.number}@127.0.0.1:{other.ports['controller']}" for other in self.nodes)
        client = self.secured.protocol if self.secured else "PLAINTEXT"
        inner = "SSL" if self.secured else "PLAINTEXT"
        host = "localhost" if self.secured else "127.0.0.1"
        majority = self.size // 2 + 1
        return {
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": voters,
            "listeners": ",".join(f"{name.upper()}://127.0.0.1:{port}" for name, port in node.ports.items()),
            "advertised.listeners": (
                f"CLIENT://{host}:{self._advertised(node)},INTERNAL://{host}:{node.ports['internal']}"
            ),
            "listener.security.protocol.map": f"CLIENT:{client},INTERNAL:{inner},CONTROLLER:{inner}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "log.dirs": node.folder / "data",
            "default.replication.factor": self.size,
            "min.insync.replicas": majority,
            "offsets.topic.replication.factor": self.size,
            "offsets.topic.num.partitions": 6,
            "transaction.state.log.replication.factor": self.size,
            "transaction.state.log.min.isr": majority,
            "transaction.state.log.num.partitions": 3,
            # A mistyped topic must not come into being with the broker's defaults.
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # How long a killed broker stays the leader, and how soon it may come back.
            "broker.session.timeout.ms": int(SESSION_TIMEOUT * 1000),
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.dedupe.buffer.size": 33_554_432,
            **(self.secured.properties() if self.secured else {}),
        }


def cluster_id() -> str:
    """A new id as Kafka writes them: 16 bytes in base64. It must not look like an option, so it begins with A."""
    return base64.urlsafe_b64encode(b"\0" + os.urandom(15)).decode().rstrip("=")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. Another process may take one before it is used."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
