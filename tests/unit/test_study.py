"""The experiments of a report: small ones must already show what the large ones are made to show."""

import json
from dataclasses import fields

from streamforge_assets.study.leaks import null_market_leaks
from streamforge_assets.study.method import EXPERIMENTS, MethodStudy, after_a_switch, study_digest
from streamforge_assets.study.regimes import SWITCH, WINDOW, regime_recovery


def test_a_graph_chosen_with_the_test_bars_makes_skill_out_of_noise_and_an_honest_one_does_not():
    leaks = {row.label: row for row in null_market_leaks(range(51, 53), n=30)}
    assert leaks["graph and weights from all bars"].ic.t > 4
    assert leaks["graph from all bars, weights from training"].ic.t > 3
    assert [row.honest for row in leaks.values()] == [False, False, True, True]
    assert all(abs(row.ic.t) < 3 for row in leaks.values() if row.honest)


def test_a_rolling_window_finds_the_new_network_and_one_built_before_does_not():
    rows = {row.label: row for row in regime_recovery(51, n=12)}
    rolling = rows[f"the last {WINDOW} bars"]
    assert rolling.since_switch[0] < 0 < rolling.since_switch[-1]
    assert rolling.ic_share[0] > 0.9
    assert rolling.ic_share[-1] > 0.9
    assert rows["built once, before"].ic_share[-1] < 0.4
    assert SWITCH > WINDOW, "or nothing would be built before the switch"


def test_a_method_study_comes_back_from_json():
    empty = dict.fromkeys(EXPERIMENTS, ())
    study = MethodStudy(**{**empty, "regimes": tuple(after_a_switch())})
    again = MethodStudy.from_json(json.loads(json.dumps(study.to_json())))
    assert [row.label for row in again.regimes] == [row.label for row in study.regimes]
    assert list(again.regimes[0].ic_share) == list(study.regimes[0].ic_share)
    assert {field.name for field in fields(MethodStudy)} == set(EXPERIMENTS)


def test_a_study_is_known_by_the_code_that_it_measures():
    assert study_digest() == study_digest()
    assert len(study_digest()) == 64
