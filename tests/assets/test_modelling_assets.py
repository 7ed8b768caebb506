"""From stored candles to forecasts through Dagster: what each asset makes, refuses and says, and no look-ahead."""

import asyncio
import json
import shutil
import subprocess
from datetime import date

import dagster as dg
import numpy as np
import pytest

from resources.artifacts.local import LocalArtifacts
from resources.datasets import DAY, Partition
from resources.errors import Rejected
from resources.store import open_store
from streamforge_assets.assets.session import Session
from streamforge_assets.client import StreamForge
from streamforge_assets.local_dagster import open_instance, run_days
from streamforge_assets.modelling.forecasts import MODEL, read_forecasts
from tests.modelling import CONFIG, FIRST, after, fill, modelling_settings

DAYS = 7
END = FIRST + DAYS * DAY
LAST = END - DAY
DATASETS = ("features/5m", "graphs/5m", "models/5m", "forecasts/5m")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Seven days of six symbols, trained in walk-forward over the last two days."""
    settings = modelling_settings(tmp_path_factory.mktemp("trained"))
    asyncio.run(fill(settings, DAYS))
    result = StreamForge(settings).make_models(start=FIRST, end=END, folds=2, progress=False)
    assert result.complete, result.failures
    return settings, result


def events(settings, name: str) -> dict[str, dg.AssetMaterialization]:
    with open_instance(settings) as instance:
        key = dg.AssetKey(name.split("/"))
        found = instance.fetch_materializations(key, limit=100).records
    return {record.partition_key: record.asset_materialization for record in reversed(found)}


def checks(settings, name: str) -> dict[str, tuple[bool, dict]]:
    with open_instance(settings) as instance:
        key = dg.AssetKey(name.split("/"))
        summaries = instance.event_log_storage.get_asset_check_summary_records(
            [dg.AssetCheckKey(key, check) for check in CHECK_NAMES[name]]
        )
    found = {}
    for check_key, summary in summaries.items():
        evaluation = summary.last_check_execution_record.event.dagster_event.asset_check_evaluation_data
        found[check_key.name] = (evaluation.passed, {k: v.value for k, v in evaluation.metadata.items()})
    return found


CHECK_NAMES = {
    "analysis/features": ["coverage"],
    "analysis/asset_graph": ["coverage", "drift"],
    "models/gnn_model": ["coverage", "has_edges", "gate_helps"],
    "models/forecasts": ["has_skill", "beats_baselines"],
}


def test_every_asset_is_materialised_for_its_days(trained):
    settings, result = trained
    assert result.models == (LAST - 2 * DAY, LAST - DAY, LAST)
    assert result.forecasts == (LAST - DAY, LAST)
    found = {name: sorted(events(settings, name)) for name in CHECK_NAMES}
    assert found["analysis/features"] == [str(FIRST + offset * DAY) for offset in range(DAYS)]
    assert found["analysis/asset_graph"] == found["models/gnn_model"] == [str(day) for day in result.models]
    assert found["models/forecasts"] == [str(day) for day in result.forecasts]


def test_partitions_carry_metrics_and_small_pictures(trained):
    settings, _ = trained
    pictured = {"analysis/asset_graph", "models/gnn_model", "models/forecasts"}
    for name in CHECK_NAMES:
        metadata = {key: value.value for key, value in events(settings, name)[str(LAST)].metadata.items()}
        if name in pictured:
            assert "data:image/png;base64" in metadata["picture"]
            assert len(metadata["picture"]) < 42_000, "30 kB in base64"
    graph = events(settings, "analysis/asset_graph")[str(LAST)].metadata
    assert graph["edges"].value > 0
    assert graph["strongest"].records[0].data.keys() == {"leader", "follower", "lag", "weight", "t"}


def test_the_model_beats_noise_and_its_baselines_where_structure_was_planted(trained):
    settings, result = trained
    scores = {score.name: score for score in StreamForge(settings).scores(result.forecasts[0], END)}
    assert scores[MODEL].ic > 0.2
    assert scores[MODEL].ic > max(scores[name].ic for name in ("zero", "ar_ridge", "lightgbm_own"))
    passed, _ = checks(settings, "models/forecasts")["has_skill"]
    assert passed


async def test_nothing_after_a_bar_changes_what_was_forecast_of_it_or_before(trained, tmp_path):
    """Look-ahead through all assets: everything from a bar on is changed; what was said up to it stays."""
    settings, _ = trained
    bar = 150
    moment = np.datetime64(LAST, "us") + bar * np.timedelta64(5, "m")
    other = modelling_settings(tmp_path)
    await fill(other, DAYS, change=after(moment, 1.5))
    StreamForge(other).make_models(start=FIRST, end=END, folds=2, progress=False)

    async with LocalArtifacts(settings.home / "artifacts") as one, LocalArtifacts(other.home / "artifacts") as two:
        before, changed = [await read_forecasts(artifacts, "5m", LAST) for artifacts in (one, two)]
        for name, values in before.values.items():
            # Row k forecasts bar k from what ended before it.
            assert np.array_equal(values[: bar + 1], changed.values[name][: bar + 1]), name
            if name != "zero":
                assert not np.array_equal(values[bar + 1 :], changed.values[name][bar + 1 :]), name
        for day in (LAST - 2 * DAY, LAST - DAY):
            for prefix in ("graphs/5m", "models/5m"):
                keys = await one.list(f"{prefix}/{day}")
                for name in (key for key in keys if key.endswith(("parquet", "safetensors"))):
                    assert await one.get(name) == await two.get(name), name


def test_a_model_made_of_the_same_data_is_not_trained_again(trained):
    settings, _ = trained
    with open_instance(settings) as instance:
        heard = []
        session = Session(settings, on_training=lambda day, done: heard.append(day))
        assert run_days(instance, session, "gnn_model", LAST, LAST) == ""
    assert heard == []
    assert "not again" in events(settings, "models/gnn_model")[str(LAST)].metadata["trained"].value


def test_a_loaded_model_says_what_the_asset_said(trained):
    settings, _ = trained
    client = StreamForge(settings)
    model = client.model(LAST - DAY)
    panel = client.panel(LAST - DAY, END, model.symbols)
    said = model.predict(panel)
    stored = client.forecasts(LAST, END)
    for symbol in model.symbols:
        mine = stored[stored["symbol"] == symbol]["gnn"]
        np.testing.assert_array_equal(said.loc[mine.index, symbol].to_numpy(), mine.to_numpy())


@pytest.fixture
def copied(trained, tmp_path):
    """The trained home, for tests that damage it."""
    settings, _ = trained
    shutil.copytree(settings.home, tmp_path / "home", dirs_exist_ok=True)
    return modelling_settings(tmp_path / "home")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "baselines/ar_ridge.json"])
def test_a_tampered_model_is_refused(copied, file):
    path = copied.home / "artifacts/models/5m" / str(LAST) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Rejected, match="is not what was published"):
        StreamForge(copied).model(LAST)


def test_a_half_written_model_is_refused(copied):
    (copied.home / "artifacts/models/5m" / str(LAST) / "_SUCCESS").unlink()
    with pytest.raises(Rejected, match="was never finished"):
        StreamForge(copied).model(LAST)


def test_a_model_refuses_a_panel_of_other_symbols(trained):
    settings, _ = trained
    client = StreamForge(settings)
    model = client.model(LAST)
    with pytest.raises(Rejected, match="of other symbols than the panel"):
        model.predict(client.panel(LAST, END, model.symbols[1:]))


async def test_a_symbol_that_stops_trading_is_left_out_with_a_warning_and_the_others_go_on(copied):
    gone = CONFIG.instruments[5].symbol
    async with open_store(copied) as store:
        for offset in range(3, DAYS):
            await store.delete(Partition("candles_5m", gone, FIRST + offset * DAY))
    result = StreamForge(copied).make_models(start=FIRST, end=END, folds=1, progress=False)
    assert result.complete, result.failures
    passed, metadata = checks(copied, "models/gnn_model")["coverage"]
    assert not passed
    assert f"left out: {gone}" in metadata[str(LAST)]
    assert gone not in StreamForge(copied).model(LAST).symbols


async def test_a_day_without_candles_fails_by_name_and_leaves_nothing_half_written(copied):
    async with open_store(copied) as store:
        for instrument in CONFIG.instruments:
            await store.delete(Partition("candles_5m", instrument.symbol, LAST))
    shutil.rmtree(copied.home / "artifacts")
    result = StreamForge(copied).make_models(start=FIRST, end=END, folds=1, progress=False)
    assert f"no candle of {LAST} is stored for any symbol" in result.failures["features"]
    assert f"{LAST}: no symbol covers 95%" in result.failures["asset_graph"]
    artifacts = copied.home / "artifacts"
    assert not (artifacts / "models/5m" / str(LAST)).exists()
    assert (artifacts / "models/5m" / str(LAST - DAY) / "_SUCCESS").exists(), "the day before goes on"
    assert not list(artifacts.rglob(".staging/*"))


async def test_one_symbol_still_trains_and_says_that_its_graph_is_empty(tmp_path):
    settings = modelling_settings(tmp_path)
    await fill(settings, 6, symbols=[CONFIG.instruments[0].symbol])
    result = StreamForge(settings).make_models(start=FIRST, end=FIRST + 6 * DAY, folds=1, progress=False)
    assert result.complete, result.failures
    passed, metadata = checks(settings, "models/gnn_model")["has_edges"]
    assert not passed
    assert "graph" in metadata[str(FIRST + 5 * DAY)]
    model = StreamForge(settings).model(FIRST + 5 * DAY)
    assert model.trained.graph.edges == 0


def test_an_interrupted_training_leaves_no_partition_and_the_next_one_finishes(copied, monkeypatch):
    """A process that dies in the middle of a training leaves its job's folder, and nothing that can be read."""
    shutil.rmtree(copied.home / "artifacts/models/5m" / str(LAST))
    from streamforge_assets.modelling import trainer

    def die(self, folder, on_progress):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer.InlineTrainer, "train", die)
        with pytest.raises(KeyboardInterrupt):
            StreamForge(copied).make_models(start=FIRST, end=END, folds=1, progress=False)
    assert not (copied.home / "artifacts/models/5m" / str(LAST)).exists()
    assert StreamForge(copied).make_models(start=FIRST, end=END, folds=1, progress=False).complete
    assert not list((copied.home / "training").iterdir())


def test_a_model_trained_in_its_own_process_is_the_same(copied):
    before = (copied.home / "artifacts/models/5m" / str(LAST) / "model.safetensors").read_bytes()
    shutil.rmtree(copied.home / "artifacts/models/5m" / str(LAST))
    settings = modelling_settings(copied.home, trainer="process")
    assert StreamForge(settings).make_models(start=FIRST, end=END, folds=1, progress=False).complete
    after_ = (copied.home / "artifacts/models/5m" / str(LAST) / "model.safetensors").read_bytes()
    assert before == after_


def test_a_training_process_that_is_killed_goes_on_and_ends_with_the_same_bytes(copied, monkeypatch):
    before = (copied.home / "artifacts/models/5m" / str(LAST) / "model.safetensors").read_bytes()
    shutil.rmtree(copied.home / "artifacts/models/5m" / str(LAST))
    started = []
    popen = subprocess.Popen

    def start(*args, **more):
        started.append(popen(*args, **more))
        return started[-1]

    def kill(day, done):
        if 0 < done < 0.6:
            started[-1].kill()

    settings = modelling_settings(copied.home, trainer="process")
    with monkeypatch.context() as patched, open_instance(settings) as instance:
        patched.setattr("streamforge_assets.modelling.trainer.subprocess.Popen", start)
        failure = run_days(instance, Session(settings, on_training=kill), "gnn_model", LAST, LAST)
        assert "goes on from its last checkpoint" in failure
        assert not (copied.home / "artifacts/models/5m" / str(LAST)).exists()
        assert run_days(instance, Session(settings), "gnn_model", LAST, LAST) == ""
    after_ = (copied.home / "artifacts/models/5m" / str(LAST) / "model.safetensors").read_bytes()
    assert before == after_


def test_a_graph_of_other_features_is_not_trained_on(copied):
    """Features made anew after the graph: a model of both would be of no data that ever was."""
    shutil.rmtree(copied.home / "artifacts/models/5m" / str(LAST))
    features = copied.home / "artifacts/features/5m"
    shutil.rmtree(features / str(LAST - DAY))
    with open_instance(copied) as instance:
        asyncio.run(fill(copied, DAYS, change=after(np.datetime64(LAST - DAY, "us"), 1.2)))
        assert run_days(instance, Session(copied), "features", LAST - DAY, LAST - DAY) == ""
        failure = run_days(instance, Session(copied), "gnn_model", LAST, LAST)
    assert f"the graph of {LAST} was made from other features" in failure


def test_a_device_that_is_absent_is_one_sentence(copied):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    shutil.rmtree(copied.home / "artifacts/models/5m" / str(LAST))
    result = StreamForge(modelling_settings(copied.home, device="cuda")).make_models(
        start=FIRST, end=END, folds=0, progress=False
    )
    assert "cuda" in result.failures["gnn_model"].lower()
    assert not (copied.home / "artifacts/models/5m" / str(LAST)).exists()


def test_a_graph_goes_to_pandas_networkx_and_pyg(trained):
    settings, _ = trained
    graph = StreamForge(settings).graph(LAST)
    strongest = graph.edges.iloc[0]
    assert list(graph.edges) == ["leader", "follower", "lag", "weight", "t", "p", "q"]
    assert abs(graph.edges["t"]).is_monotonic_decreasing
    network = graph.to_networkx()
    assert network.edges[strongest.leader, strongest.follower, strongest.lag]["weight"] == strongest.weight
    data = graph.to_pyg()
    assert data.num_nodes == len(graph.graph.symbols)
    names = [graph.graph.symbols[at] for at in data.edge_index[:, 0].tolist()]
    row = graph.edges[(graph.edges.leader == names[0]) & (graph.edges.follower == names[1])].iloc[0]
    assert data.edge_attr[0, 0].item() == pytest.approx(row.weight, rel=1e-6)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda s: s.graph("2024-07-30"), "there is no graph of 2024-07-30"),
        (lambda s: s.model("2024-07-30"), "there is no model of 2024-07-30"),
        (lambda s: s.forecasts("2024-07-30", "2024-07-31"), "there are no forecasts of 2024-07-30"),
        (lambda s: s.report("2024-07-30", "2024-07-31", progress=False), "there are no forecasts of 2024-07-30"),
        (
            lambda s: s.make_models(start=FIRST, end=FIRST + 2 * DAY),
            "a model needs 4 days and one before them, and there are 2",
        ),
        (lambda s: s.make_models(start=END, end=FIRST), "is empty"),
        (lambda s: s.make_models(start=FIRST, end=date(2094, 1, 1)), "is not over yet"),
        (lambda s: s.graph("tomorrow"), "'tomorrow' is not a day"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(trained, ask, sentence):
    with pytest.raises(Rejected, match=sentence):
        ask(StreamForge(trained[0]))


def test_the_artifacts_of_a_model_are_all_there(trained):
    settings, _ = trained
    folder = settings.home / "artifacts/models/5m" / str(LAST)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        "_SUCCESS", "manifest.json", "config.json", "data.json", "metrics.json", "model.safetensors", "model.pt2",
        "model_card.md", "history.json", "graph.npz", "predictions.parquet", "plots/loss.png",
        "plots/adjacency.png", "baselines/sparse_var.json", "baselines/lightgbm_graph.json",
    }  # fmt: skip
    manifest = json.loads((folder / "data.json").read_text())
    assert manifest["bars"] == 4 * 288
    assert len(manifest["features_sha256"]) == 64
