"""Which levels there are, and which one comes next."""

import pytest

from neuralese.data.errors import DataError
from neuralese.pipeline.problems.schedule import Level, plan_levels
from neuralese.pipeline.train.curriculum.order import Rules, best_visit, next_level


def test_plan_removes_steps_until_none_is_left():
    assert plan_levels(3, 2) == [Level(1, 1, 2), Level(2, 2, 4), Level(3, 3, 6)]
    assert plan_levels(5, 1, 2) == [Level(1, 2, 2), Level(2, 4, 4), Level(3, 5, 5)]
    assert plan_levels(5, 1, [1, 3, "all"]) == [Level(1, 1, 1), Level(2, 4, 4), Level(3, 5, 5)]
    assert plan_levels(5, 2, ["all"]) == [Level(1, 5, 10)]
    assert plan_levels(2, 1, [1, 1, 4]) == [Level(1, 1, 1), Level(2, 2, 2)]  # shorter problems need fewer levels


def test_plan_adds_no_more_latents_than_the_most():
    # Coconut's GSM8K: three levels, then everything that is left in one more, without more latents.
    assert plan_levels(8, 2, max_latents=6) == [Level(1, 1, 2), Level(2, 2, 4), Level(3, 3, 6), Level(4, None, 6)]
    assert plan_levels(3, 2, max_latents=6) == plan_levels(3, 2)
    assert plan_levels(4, 1, [1], max_latents=1) == [Level(1, 1, 1), Level(2, None, 1)]  # before the list runs out
    assert plan_levels(6, 1, ["all"], max_latents=4) == [Level(1, 6, 4)]


def test_a_schedule_that_keeps_steps_is_an_error():
    with pytest.raises(
        DataError, match=r"steps_per_level=\[1, 2\] never removes all steps: the longest problem has 5, and 2"
    ):
        plan_levels(5, 1, [1, 2])


def report(level, promoted=True, target=0.9, earlier=None):
    return {"level": level, "promoted": promoted, "target": target, "earlier": earlier}


def order(outcomes, num_levels, rules):
    """Levels visited when `outcomes(level, times)` says how the visits of a level end."""
    visits = []
    while (level := next_level(visits, num_levels, rules)) is not None:
        visits.append(outcomes(level, sum(visit["level"] == level for visit in visits)))
        assert len(visits) < 50
    return [visit["level"] for visit in visits]


def test_levels_follow_each_other():
    assert order(lambda level, times: report(level), 3, Rules(stop_at_limit=True)) == [1, 2, 3]


def test_a_missed_threshold_stops_or_does_not():
    def fails_at_2(level, times):
        return report(level, promoted=level != 2)

    assert order(fails_at_2, 3, Rules(stop_at_limit=True)) == [1, 2]
    assert order(fails_at_2, 3, Rules(stop_at_limit=False)) == [1, 2, 3]
    without_target = order(lambda level, times: report(level, False, None), 3, Rules(stop_at_limit=True))
    assert without_target == [1, 2, 3]  # nothing was asked of the levels


def test_the_best_visit_is_of_the_highest_level_that_was_promoted():
    visits = [report(1), report(2), report(1), report(2), report(3, promoted=False)]
    assert best_visit(visits) == 3
    assert best_visit([report(1, promoted=False)]) is None


def test_it_steps_back_when_the_accuracy_on_the_level_below_falls():
    rules = Rules(stop_at_limit=True, step_back_at=0.5, max_step_backs=1)

    def forgets(level, times):
        return report(level, earlier=0.4 if level == 3 and times == 0 else 0.9)

    assert order(forgets, 4, rules) == [1, 2, 3, 2, 3, 4]
    # If the accuracy never recovers, each level is trained once more, and there is no endless loop.
    assert order(lambda level, times: report(level, earlier=0.0 if level > 1 else None), 3, rules) == [1, 2, 1, 2, 3]
    two = Rules(stop_at_limit=True, step_back_at=0.5, max_step_backs=2)
    assert order(lambda level, times: report(level, earlier=0.0 if level == 2 else None), 2, two) == [1, 2, 1, 2, 1, 2]
