"""Runs that nobody executes any more do not hold up the others."""

import json
import os
import socket
import subprocess
import sys

import dagster as dg
import pytest

from streamforge_assets.lost_runs import CODE_SERVER_TAG, PROCESS_TAG, end_lost_runs
from tests.e2e.served import free_port

STARTED, CANCELING = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING
FAILURE, CANCELED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def after(instance, tags, status=STARTED):
    @dg.job
    def job():
        pass

    run = instance.create_run_for_job(job, tags=tags, status=status)
    end_lost_runs(instance)
    return instance.get_run_by_id(run.run_id).status


def served(**address):
    return {CODE_SERVER_TAG: json.dumps({"host": "localhost", **address})}


@pytest.mark.parametrize(("before", "then"), [(STARTED, FAILURE), (CANCELING, CANCELED)])
def test_a_run_whose_code_server_is_gone_is_ended(instance, tmp_path, before, then):
    """After a power cut two of them would hold both places of the queue, and nothing would ever run again."""
    assert after(instance, served(socket=str(tmp_path / "gone")), before) == then
    assert after(instance, served(port=free_port()), before) == then
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))  # the file outlives who listened there
    assert after(instance, served(socket=str(tmp_path / "left")), before) == then


def test_a_run_whose_code_server_answers_or_is_elsewhere_goes_on(instance, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "live"))
        listener.listen()
        assert after(instance, served(socket=str(tmp_path / "live"))) == STARTED
    assert after(instance, {CODE_SERVER_TAG: json.dumps({"host": "code-server.example", "port": 4000})}) == STARTED
    assert after(instance, {}) == STARTED


def test_a_run_in_a_process_is_ended_with_it(instance):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert after(instance, {PROCESS_TAG: str(gone.pid)}) == FAILURE
    assert after(instance, {PROCESS_TAG: str(os.getpid())}) == STARTED
