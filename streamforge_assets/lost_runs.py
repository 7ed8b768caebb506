"""Dagster runs whose process is gone with nobody left to notice: how they are known, and ended.

A run in a process of a caller is known by that. One of Dagster's daemon is executed, and watched, by a code server
on this machine: where that is gone too, as after the machine went down, Dagster would count the run as running for
ever, and as one of the few that may.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "streamforge/process"
"""The tag of a run in a caller's process: the id of that."""

CODE_SERVER_TAG = ".dagster/grpc_info"
"""The tag by which Dagster tells which code server executes a run."""

_LOCAL = frozenset({"localhost", "127.0.0.1"})
_PATIENCE = 2.0


def end_lost_runs(instance: dg.DagsterInstance) -> None:
    """Mark the runs whose process is certainly gone as failed; as cancelled where that was asked for."""
    import dagster as dg

    live = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    for run in instance.get_runs(dg.RunsFilter(statuses=live)):
        cause = _lost(run.tags.get(PROCESS_TAG, ""), run.tags.get(CODE_SERVER_TAG, ""))
        if cause and run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, cause)
        elif cause:
            instance.report_run_failed(run, cause)


def _lost(process: str, code_server: str) -> str:
    """Why a run with these tags is lost; empty where it lives, or nobody here can know."""
    if process:
        return "" if psutil.pid_exists(int(process)) else f"its process {process} ended without finishing it"
    if code_server and not _answers(json.loads(code_server)):
        return "the code server that executed it ended without finishing it"
    return ""


def _answers(code_server: dict[str, Any]) -> bool:
    """Whether somebody listens at the address of a code server. One on another machine is taken to."""
    path, host, port = code_server.get("socket"), code_server.get("host"), code_server.get("port")
    if not path and host not in _LOCAL:
        return True
    family = socket.AF_UNIX if path else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(path or ("127.0.0.1", port))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True
