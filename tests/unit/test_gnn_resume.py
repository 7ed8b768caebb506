"""A training that is killed anywhere goes on as if nothing had happened, to the bit."""

import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from resources.errors import Rejected
from streamforge_assets.gnn.checkpoint import LAST, PREVIOUS, Checkpoints
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.train import train_model
from streamforge_assets.simulator.market import MarketParameters
from streamforge_assets.study.forecasting import planted_graph
from streamforge_assets.study.markets import study_market

# So fast that the best epoch is in the middle: what was best has to survive too.
CONFIG = GnnConfig(epochs=6, segments=2, steps=32, patience=6, learning_rate=0.4)
TRIALS = 20


@pytest.fixture(scope="module")
def market():
    return study_market(MarketParameters(n=8, seed=4, r2=0.2), 800)


@pytest.fixture(scope="module")
def whole(market):
    """The training that nobody disturbs, and how many steps it takes."""
    steps = []
    model = train_model(market.panel, planted_graph(market), CONFIG, progress=steps.append)
    assert len(steps) > 30
    assert model.gated, "the gate is what training leaves behind; the weights are fitted anew after it"
    assert 0 < np.argmin(model.history.validation) < CONFIG.epochs - 1
    return model, len(steps)


def bits(model):
    return {name: value.numpy().tobytes() for name, value in model.module.state_dict().items()}


def in_a_child(work):
    """Run `work` in a forked process, which has torch loaded already; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed_at(market, folder, step):
    def die(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return in_a_child(lambda: resume(market, folder, die))


def resume(market, folder, progress=None):
    return train_model(
        market.panel, planted_graph(market), CONFIG, checkpoint=folder, checkpoint_every=3, progress=progress
    )


@pytest.mark.parametrize("trial", range(TRIALS))
def test_killed_and_resumed_is_the_same_to_the_bit(market, whole, tmp_path, trial):
    model, steps = whole
    dice = random.Random(trial)
    # Twice in a row: the second process is killed while it goes on from the first one's checkpoint.
    for _ in range(2):
        if trial % 2:
            child = killed_at(market, tmp_path, dice.randint(1, steps))
        else:
            child = in_a_child(lambda: resume(market, tmp_path))
            time.sleep(dice.uniform(0.02, 0.6))  # anywhere, in the middle of writing a checkpoint too
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    resumed = resume(market, tmp_path)
    assert bits(resumed) == bits(model)
    assert resumed.history == model.history
    assert np.array_equal(resumed.predict(market.panel), model.predict(market.panel))


def test_a_resumed_training_does_not_begin_again(market, whole, tmp_path):
    _, steps = whole
    os.waitpid(killed_at(market, tmp_path, steps - 5), 0)
    seen = []
    resume(market, tmp_path, lambda progress: seen.append(progress.step))
    assert seen[0] >= steps - 8
    assert seen[-1] == steps


def test_a_torn_checkpoint_gives_way_to_the_one_before(market, whole, tmp_path):
    model, steps = whole
    os.waitpid(killed_at(market, tmp_path, steps - 2), 0)
    last = tmp_path / LAST
    last.write_bytes(last.read_bytes()[:-100])
    assert bits(resume(market, tmp_path)) == bits(model)


def test_checkpoints_that_are_all_damaged_are_refused(market, tmp_path):
    os.waitpid(killed_at(market, tmp_path, 20), 0)
    for name in (LAST, PREVIOUS):
        raw = bytearray((tmp_path / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(Rejected, match="is damaged; delete the folder to train anew"):
        resume(market, tmp_path)


def test_a_checkpoint_of_another_training_is_refused(market, tmp_path):
    os.waitpid(killed_at(market, tmp_path, 20), 0)
    graph, panel = planted_graph(market), market.panel
    cases = {
        "config": (panel, graph, replace(CONFIG, seed=1)),
        "data": (panel.rows(0, 690), graph, CONFIG),
        "graph": (
            panel,
            replace(graph, weight=2 * graph.weight, leader=graph.follower, follower=graph.leader),
            CONFIG,
        ),
    }
    for name, (data, given, config) in cases.items():
        with pytest.raises(Rejected, match=f"is of another training: .*{name}"):
            train_model(data, given, config, checkpoint=tmp_path)


def test_nothing_half_written_has_the_name_of_a_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"data": "a"})
    assert checkpoints.load() is None
    checkpoints.save({"step": 1})
    (tmp_path / f"{LAST}.part").write_bytes(b"half")
    assert checkpoints.load() == {"step": 1}
    checkpoints.save({"step": 2})
    assert checkpoints.load() == {"step": 2}
    (tmp_path / LAST).unlink()
    assert checkpoints.load() == {"step": 1}
