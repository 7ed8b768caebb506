import pytest

from streamforge_assets.workflow.healing import HealingPolicy

POLICY = HealingPolicy(silence=30, attempts=3, backoff=0.5)


@pytest.mark.parametrize(
    ("quiet", "failed", "retriable", "attempt", "verdict"),
    [
        (29.9, False, True, 1, "healthy"),
        (30.0, False, True, 1, "restart"),
        (0.0, True, True, 2, "restart"),
        (0.0, True, True, 3, "give up"),
        (0.0, True, False, 1, "give up"),
        (99.0, False, True, 3, "give up"),
    ],
)
def test_a_worker_is_judged_by_silence_failure_and_number_of_starts(quiet, failed, retriable, attempt, verdict):
    assert POLICY.judge(quiet=quiet, failed=failed, retriable=retriable, attempt=attempt) == verdict


def test_the_wait_doubles():
    assert [POLICY.delay(attempt) for attempt in (1, 2, 3)] == [0.5, 1.0, 2.0]
