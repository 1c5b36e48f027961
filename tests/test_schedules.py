"""Learning rates as functions of the epoch."""

import math

import keras
import pytest

from dhm_keras.schedules import Cosine, EpochSchedule, Exponential, MultiStep


def test_a_milestone_counts_finished_epochs():
    # CIFAR-100, ResNet: 391 steps an epoch, x0.1 before the 82nd and the 123rd.
    schedule = MultiStep(0.1, steps_per_epoch=391, milestones=(81, 122))
    expected = {0: 0.1, 81 * 391 - 1: 0.1, 81 * 391: 0.01, 122 * 391 - 1: 0.01, 122 * 391: 0.001, 163 * 391: 0.001}
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 49, 391, 782, 5004])
def test_no_rounding_moves_a_milestone(steps):
    milestones = (30, 60, 81, 122, 225)
    schedule = MultiStep(1.0, steps_per_epoch=steps, milestones=milestones, decay=0.5)
    for passed, milestone in enumerate(milestones):
        assert float(schedule(milestone * steps - 1)) == 0.5**passed
        assert float(schedule(milestone * steps)) == 0.5 ** (passed + 1)


def test_cosine_falls_from_the_rate_to_zero():
    schedule = Cosine(0.2, steps_per_epoch=10, epochs=4)
    for step in range(41):
        assert float(schedule(step)) == pytest.approx(0.1 * (1 + math.cos(math.pi * step / 40)), abs=1e-7)
    assert float(schedule(100)) == pytest.approx(0, abs=1e-7)


def test_cosine_falls_to_a_minimum_and_stays_there():
    schedule = Cosine(0.025, 50, 240, minimum=1e-4)
    for epoch in (0, 1, 60, 120, 239.5, 240):  # PyTorch's CosineAnnealingLR at the start of these epochs
        expected = 1e-4 + (0.025 - 1e-4) * 0.5 * (1 + math.cos(math.pi * epoch / 240))
        assert float(schedule(int(50 * epoch))) == pytest.approx(expected, rel=1e-5)
    assert float(schedule(50 * 300)) == pytest.approx(1e-4, rel=1e-6)
    assert float(Cosine(0.1, 5, 3, minimum=0.1)(7)) == pytest.approx(0.1)
    assert "minimum" not in Cosine(0.025, 50, 240).get_config()  # so checkpoints from before it was there go on


@pytest.mark.parametrize("steps", [1, 3, 391, 5004, 10_010])
def test_exponential_decay_is_constant_within_an_epoch(steps):
    schedule = Exponential(0.1, steps_per_epoch=steps, decay=0.97)
    for epoch in (0, 1, 2, 57, 239):
        first, last = (float(schedule(step)) for step in (epoch * steps, (epoch + 1) * steps - 1))
        assert first == last == pytest.approx(0.1 * 0.97**epoch, rel=1e-5)
    warm = Exponential(0.1, steps, 0.97, warmup_epochs=2)
    assert float(warm(steps)) == pytest.approx(float(schedule(steps)) * (steps + 1) / (2 * steps), rel=1e-5)


def test_warm_up_rises_linearly_within_an_epoch_and_does_not_shift_the_schedule():
    plain, warm = (Cosine(0.1, 12, 20, warmup_epochs=epochs) for epochs in (0, 2))
    for step in range(24):
        assert float(warm(step)) == pytest.approx(float(plain(step)) * (step + 1) / 24, rel=1e-5)
    for step in range(24, 240):
        assert float(warm(step)) == float(plain(step))


@pytest.mark.parametrize(
    "schedule",
    [
        EpochSchedule(0.1, 5, 1.5),
        Cosine(0.1, 5, 10, 1.0, minimum=0.01),
        Exponential(0.1, 5, 0.9, 1.0),
        MultiStep(0.1, 5, (3, 6), decay=0.2),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_config_round_trip(schedule):
    if type(schedule) is not EpochSchedule:  # the base is no schedule of its own in a file
        schedule_again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
        assert [float(schedule_again(s)) for s in range(60)] == [float(schedule(s)) for s in range(60)]
    assert type(schedule)(**schedule.get_config()).get_config() == schedule.get_config()


@pytest.mark.parametrize(
    "make, argument",
    [
        (lambda: MultiStep(0.1, 5, (6, 3)), "milestones"),
        (lambda: MultiStep(-0.1, 5, (3,)), "learning_rate"),
        (lambda: Cosine(0.1, 0, 5), "steps_per_epoch"),
        (lambda: Cosine(0.1, 5, 0), "epochs"),
        (lambda: Cosine(0.1, 5, 5, warmup_epochs=-1), "warmup_epochs"),
        (lambda: Cosine(0.1, 5, 5, minimum=0.2), "minimum"),
        (lambda: Cosine(0.1, 5, 5, minimum=-0.1), "minimum"),
        (lambda: Exponential(0.1, 5, 0.0), "decay"),
    ],
)
def test_wrong_arguments_are_refused(make, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        make()
