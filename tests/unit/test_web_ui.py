"""What `streamforge ui` starts, and what it does before."""

import json

import dagster as dg
import pytest

from resources.errors import Unavailable
from streamforge_assets import web_ui
from streamforge_assets.local_dagster import open_instance
from streamforge_assets.lost_runs import CODE_SERVER_TAG


class Ended:
    """A process that has ended at once; `commands` are those of all."""

    commands: list[list[str]]
    returncode = 7

    def __init__(self, command, env):
        self.commands.append(command)

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        return None

    def wait(self, timeout):
        return self.returncode


def test_lost_runs_are_ended_first_and_the_daemon_is_the_one_that_looks_often(settings, monkeypatch, tmp_path):
    @dg.job
    def job():
        pass

    tags = {CODE_SERVER_TAG: json.dumps({"host": "localhost", "socket": str(tmp_path / "gone")})}
    with open_instance(settings) as instance:
        run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    Ended.commands = []
    monkeypatch.setattr(web_ui.subprocess, "Popen", Ended)
    with pytest.raises(Unavailable, match="webserver ended with exit code 7"):
        web_ui.serve_ui(settings, "127.0.0.1", 3000)
    with open_instance(settings) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert [command[2] for command in Ended.commands] == ["dagster_webserver", "streamforge_assets.daemon"]
