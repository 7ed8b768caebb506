import dagster as dg

from resources.settings import Settings
from streamforge_assets import event_log
from streamforge_assets.local_dagster import open_instance


def test_events_are_stored_through_few_engines(settings: Settings):
    """A new Dagster that goes around `_connect` would silently make every backfill slower."""
    event_log._engine.cache_clear()
    with open_instance(settings) as instance:
        assert type(instance.event_log_storage) is event_log.EventLogStorage
        for number in range(20):
            instance.report_runless_asset_event(dg.AssetMaterialization("a", partition=str(number)))
        assert instance.get_materialized_partitions(dg.AssetKey("a")) == {str(n) for n in range(20)}
    used = event_log._engine.cache_info()
    assert used.misses <= 3
    assert used.hits >= 40


def test_an_instance_made_before_can_be_opened_by_dagsters_own_storage(settings: Settings):
    with open_instance(settings) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("a"))
    home = settings.home.absolute() / "dagster"
    lines = (home / "dagster.yaml").read_text()
    begin, end = lines.index("event_log_storage:"), lines.index("nux:")
    (home / "dagster.yaml").write_text(lines[:begin] + lines[end:])
    with open_instance(settings) as instance:
        assert type(instance.event_log_storage) is not event_log.EventLogStorage
        assert instance.get_latest_materialization_event(dg.AssetKey("a")) is not None
