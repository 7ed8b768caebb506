import pytest

from streamforge_assets.workflow.healing import HealingPolicy, Health

POLICY = HealingPolicy(silence=30, start_limit=60, attempts=3, backoff=0.5, backoff_limit=3)


@pytest.mark.parametrize(
    ("health", "verdict"),
    [
        (Health("loading", quiet=29.9), "healthy"),
        (Health("loading", quiet=30.0), "restart"),
        (Health("started", quiet=30.0), "restart"),
        (Health("pong", quiet=30.0), "restart"),
        (Health("pending", quiet=59.9), "healthy"),
        (Health("pending", quiet=60.0), "restart"),
        (Health("loading", quiet=99.0, tries=2), "restart"),
        (Health("loading", quiet=99.0, tries=3), "give up"),
        (Health("loading", gone=True), "restart"),
        (Health("loading", gone=True, tries=3), "give up"),
        (Health("pending", gone=True), "restart"),
        (Health("error", failed=True, tries=2), "restart"),
        (Health("error", failed=True, tries=3), "give up"),
        (Health("error", failed=True, retriable=False), "give up"),
        (Health("error", failed=True, retriable=False, gone=True), "give up"),
        (Health("interrupted", failed=True), "restart"),
        (Health("loading", tries=99), "healthy"),
    ],
)
def test_a_worker_is_judged_by_silence_failure_and_fruitless_starts(health, verdict):
    assert POLICY.judge(health) == verdict


def test_the_wait_doubles_up_to_its_limit_and_chance_takes_at_most_half():
    assert [POLICY.delay(tries, chance=1) for tries in (0, 1, 2, 3, 4, 50)] == [0.5, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert [POLICY.delay(tries, chance=0) for tries in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("failures", "again"),
    [([], 0), ([1000.0], 1060), ([1000.0, 1100.0], 1220), ([1100.0, 1000.0], 1220), ([1.0, 2.0, 3.0], None)],
)
def test_a_failed_workflow_waits_longer_each_time_and_then_for_a_person(failures, again):
    assert POLICY.runs_again_at(failures) == again
