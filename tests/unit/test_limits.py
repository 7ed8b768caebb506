"""The weight budget against an exchange that counts on its own clock: never over, hardly ever under."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from resources.errors import RateLimited, Rejected
from resources.exchange.limits import PATIENCE, WeightBudget
from resources.exchange.state import StateFile

START = 1_722_470_417.0


class Time:
    """A clock that moves when somebody sleeps: tasks wake in the order of their times."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        self._waiting.append((self.now + max(seconds, 0.0), self._count, future))
        await future

    async def run(self, task: "asyncio.Task[object]") -> None:
        while not task.done():
            for _ in range(20):
                await asyncio.sleep(0)
            if self._waiting and not task.done():
                self._waiting.sort(key=lambda item: item[:2])
                self.now, _, future = self._waiting.pop(0)
                if not future.done():
                    future.set_result(None)
        task.result()


def budget(folder: Path, clock: Time, limit: int = 100, share: float = 1.0) -> WeightBudget:
    made = WeightBudget(StateFile(folder, "https://exchange"), share=share, clock=clock, sleep=clock.sleep)
    made.learn([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limit}])
    return made


@pytest.mark.parametrize("skew", [0.0, 0.8, -12.3, 59.9])
@pytest.mark.parametrize("tell", [True, False], ids=["counter told", "counter hidden"])
async def test_the_exchange_never_counts_more_than_allowed(tmp_path: Path, skew: float, tell: bool) -> None:
    clock, counted, rng = Time(), Counter[int](), random.Random(3)
    shared = budget(tmp_path, clock, limit=600)
    shared.set_clock(clock.now + skew + 0.04, clock.now, clock.now + 0.1)
    end = clock.now + 230

    async def ask() -> None:
        while clock.now < end:
            grant = await shared.acquire(4)
            await clock.sleep(rng.uniform(0.001, 0.3))
            window = int((clock.now + skew) // 60)
            counted[window] += 4
            seen = counted[window]
            await clock.sleep(rng.choice([0.01, 0.05, 3.0]))
            shared.release(grant, str(seen) if tell else None)

    await clock.run(asyncio.ensure_future(asyncio.gather(*(ask() for _ in range(8)))))
    full = sorted(counted)[1:-1]
    assert max(counted.values()) <= 600
    assert min(counted[window] for window in full) >= 0.9 * 600


async def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    clock = Time(START + 1)
    one, two = budget(tmp_path, clock), budget(tmp_path, clock)
    one.release(await one.acquire(60))
    two.release(await two.acquire(40))
    before = clock.now
    task = asyncio.ensure_future(two.acquire(1))
    await clock.run(task)
    assert clock.now // 60 == before // 60 + 1


async def test_the_exchanges_own_counter_wins_when_it_is_higher(tmp_path: Path) -> None:
    clock = Time()
    shared = budget(tmp_path, clock)
    shared.release(await shared.acquire(1), "99")
    await clock.run(asyncio.ensure_future(shared.acquire(2)))
    assert clock.now > START + 30


async def test_the_share_is_kept_and_learnt_limits_count(tmp_path: Path) -> None:
    shared = budget(tmp_path, Time(), limit=6000, share=0.95)
    assert shared.allowed == 5700
    shared.learn([{"rateLimitType": "ORDERS", "interval": "SECOND", "limit": 10}, {"limit": "many"}])
    assert shared.allowed == 5700


async def test_a_budget_that_starts_later_knows_the_limit_that_was_told(tmp_path: Path) -> None:
    """Each command starts one. Without the limit, it waited for the next minute."""
    clock = Time(START + 1)
    told = budget(tmp_path, clock, limit=6000)
    told.release(await told.acquire(3000))
    later = WeightBudget(StateFile(tmp_path, "https://exchange"), clock=clock, sleep=clock.sleep)
    task = asyncio.ensure_future(later.acquire(2000))
    await clock.run(task)
    assert clock.now == START + 1
    assert later.allowed == 6000


async def test_a_weight_that_can_never_fit_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="101 can never be sent: 100 is allowed"):
        await budget(tmp_path, Time()).acquire(101)


async def test_waiting_is_in_the_order_of_asking(tmp_path: Path) -> None:
    clock, order = Time(), []
    shared = budget(tmp_path, clock)
    shared.release(await shared.acquire(100))

    async def ask(name: int, weight: int) -> None:
        shared.release(await shared.acquire(weight))
        order.append(name)

    everybody = asyncio.gather(ask(0, 90), ask(1, 90), ask(2, 1), ask(3, 1))
    await clock.run(asyncio.ensure_future(everybody))
    assert order == [0, 1, 2, 3]


async def test_a_refusal_blocks_every_caller_until_it_has_passed(tmp_path: Path) -> None:
    clock = Time()
    one, two = budget(tmp_path, clock), budget(tmp_path, clock)
    one.refused(banned=False, retry_after=70.0)
    await clock.run(asyncio.ensure_future(two.acquire(1)))
    assert clock.now >= START + 70


async def test_a_long_ban_is_remembered_across_restarts_and_ends(tmp_path: Path) -> None:
    clock = Time()
    budget(tmp_path, clock).refused(banned=True, retry_after=3600.0)
    clock.now += 60
    with pytest.raises(RateLimited, match="banned this address for 3540 more seconds") as caught:
        await budget(tmp_path, clock).acquire(1)
    assert caught.value.retry_after == pytest.approx(3540)
    assert caught.value.retry_after > PATIENCE
    clock.now += 3541
    await budget(tmp_path, clock).acquire(1)


async def test_a_refusal_without_a_time_waits_for_the_next_minute(tmp_path: Path) -> None:
    clock = Time()
    shared = budget(tmp_path, clock)
    shared.refused(banned=False, retry_after=None)
    await clock.run(asyncio.ensure_future(shared.acquire(1)))
    assert clock.now // 60 == START // 60 + 1


async def test_a_torn_state_file_is_an_empty_one(tmp_path: Path) -> None:
    shared = budget(tmp_path, Time())
    shared.release(await shared.acquire(1))
    (file,) = tmp_path.glob("*.json")
    for torn in ("", "{", "[]", '{"used": 3, "silent": {}}', '{"used": {"a": []}, "silent": {}}'):
        file.write_text(torn)
        shared.release(await shared.acquire(1))


async def test_a_cancelled_wait_leaves_the_queue(tmp_path: Path) -> None:
    clock = Time()
    shared = budget(tmp_path, clock)
    shared.release(await shared.acquire(100))
    waiting = asyncio.ensure_future(shared.acquire(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    clock.now += 120
    await shared.acquire(100)


async def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Rejected, match=r"cannot be written .* set STREAMFORGE_HOME"):
        await budget(tmp_path / "file" / "exchange", Time()).acquire(1)
