"""AccuracyMatrix against values worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfast.streams import AccuracyMatrix

R = [[0.75, 0.25, 0.125], [0.875, 0.5, 0.25], [0.5, 0.375, 1.0]]
BEFORE = [0.125, 0.0625, 0.1875]


def full() -> AccuracyMatrix:
    matrix = AccuracyMatrix(3)
    for i, row in enumerate(R):
        for j, accuracy in enumerate(row):
            matrix[i, j] = accuracy
    for j, accuracy in enumerate(BEFORE):
        matrix.set_before(j, accuracy)
    return matrix


def test_values_by_hand() -> None:
    matrix = full()
    assert matrix.average_accuracy(0) == 0.75
    assert matrix.average_accuracy(1) == (0.875 + 0.5) / 2
    assert matrix.average_accuracy() == 1.875 / 3
    assert matrix.average_incremental_accuracy(1) == (0.75 + 0.6875) / 2
    assert matrix.average_incremental_accuracy() == (0.75 + 0.6875 + 0.625) / 3
    # Task 0 was best after task 1 (0.875), task 1 after task 1 (0.5).
    assert matrix.forgetting() == ((0.875 - 0.5) + (0.5 - 0.375)) / 2
    assert matrix.forgetting(1) == 0.75 - 0.875
    assert matrix.forgetting_rate() == 0.75 - 0.5
    assert matrix.forgetting_rate(1) == 0.75 - 0.875
    assert matrix.forgetting(since="learned") == ((0.75 - 0.5) + (0.5 - 0.375)) / 2
    assert matrix.backward_transfer() == -matrix.forgetting(since="learned")
    assert matrix.backward_transfer(1) == 0.125
    assert matrix.forward_transfer() == ((0.25 - 0.0625) + (0.25 - 0.1875)) / 2
    assert matrix.forward_transfer(1) == 0.25 - 0.0625


def test_best_counts_accuracy_from_before_the_task_was_trained() -> None:
    matrix = full()
    matrix[0, 1] = 0.75
    assert matrix.forgetting() == ((0.875 - 0.5) + (0.75 - 0.375)) / 2
    assert matrix.forgetting(since="learned") == 0.1875


def test_weights_make_it_the_accuracy_on_all_samples() -> None:
    matrix = full()
    assert matrix.average_accuracy(weights=[50, 25, 25]) == (25 + 9.375 + 25) / 100
    assert matrix.average_accuracy(1, weights=[50, 25, 25]) == (43.75 + 12.5) / 75
    assert matrix.average_incremental_accuracy(weights=[50, 25, 25]) == pytest.approx(
        (0.75 + 0.75 + 0.59375) / 3, rel=1e-15
    )
    for weights in ([1, 2], [1, 2, 0], [1, 2, float("nan")]):
        with pytest.raises(ValueError, match="weights must be 3 positive numbers"):
            matrix.average_accuracy(weights=weights)


def test_an_unfinished_run_counts_up_to_its_last_complete_row() -> None:
    matrix = AccuracyMatrix(3)
    with pytest.raises(ValueError, match="no row is complete"):
        matrix.average_accuracy()
    matrix[0, 0], matrix[1, 0] = 1.0, 0.5
    assert matrix.average_accuracy() == 1.0
    matrix[1, 1] = torch.tensor(0.75)
    assert matrix.average_accuracy() == 0.625
    assert matrix.forgetting() == 0.5
    with pytest.raises(ValueError, match=r"accuracy \[2, 0\] is not recorded"):
        matrix.average_accuracy(2)
    with pytest.raises(ValueError, match="forward_transfer needs the accuracies before training"):
        matrix.forward_transfer()


@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_relations_between_the_metrics(tasks: int, random: object) -> None:
    matrix = AccuracyMatrix(tasks)
    for i in range(tasks):
        for j in range(i + 1):
            matrix[i, j] = random.random()
    assert matrix.forgetting() >= matrix.forgetting(since="learned") - 1e-12
    assert -1 <= matrix.forgetting() <= 1
    equal = matrix.average_accuracy(weights=[3.0] * tasks)
    assert equal == pytest.approx(matrix.average_accuracy(), rel=1e-12)
    best = np.array([np.nanmax(matrix.values[:-1, j]) for j in range(tasks - 1)])
    assert matrix.forgetting() == pytest.approx(np.mean(best - matrix.values[-1, :-1]), abs=1e-12)


@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_json_round_trip_is_exact(tasks: int, random: object) -> None:
    matrix = AccuracyMatrix(tasks)
    for i in range(tasks):
        if random.random() < 0.5:
            matrix.set_before(i, random.random())
        for j in range(tasks):
            if random.random() < 0.5:
                matrix[i, j] = random.random()
    text = matrix.to_json()
    json.loads(text, parse_constant=pytest.fail)
    twin = AccuracyMatrix.from_json(text)
    np.testing.assert_array_equal(twin.values, matrix.values)
    np.testing.assert_array_equal(twin.before, matrix.before)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        "{}",
        '{"accuracy": [[1]], "before": [1, 1]}',
        '{"accuracy": [], "before": []}',
        '{"accuracy": [[1, 1], [1]], "before": [1, 1]}',
        '{"accuracy": [[2]], "before": [1]}',
        '{"accuracy": [["x"]], "before": [1]}',
        '{"accuracy": [[1]], "before": 1}',
    ],
)
def test_foreign_json(text: str) -> None:
    with pytest.raises(ValueError, match="AccuracyMatrix"):
        AccuracyMatrix.from_json(text)


@pytest.mark.parametrize("accuracy", [float("nan"), -0.1, 1.01, 97.0, float("inf")])
def test_accuracies_outside_their_range_change_nothing(accuracy: float) -> None:
    matrix = full()
    with pytest.raises(ValueError, match=r"accuracy must be a fraction in \[0, 1\]"):
        matrix[1, 1] = accuracy
    with pytest.raises(ValueError, match=r"accuracy must be a fraction in \[0, 1\]"):
        matrix.set_before(1, accuracy)
    assert matrix.to_json() == full().to_json()


def test_bad_arguments() -> None:
    matrix = full()
    for entry in ((3, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"task must be in 0\.\.2"):
            matrix[entry] = 0.5
        with pytest.raises(ValueError, match=r"task must be in 0\.\.2"):
            matrix[entry]
    with pytest.raises(ValueError, match=r"task must be in 0\.\.2, got 3"):
        matrix.average_accuracy(3)
    with pytest.raises(TypeError, match="accuracy must be a number"):
        matrix[0, 0] = torch.zeros(2)
    with pytest.raises(TypeError, match="accuracy must be a number"):
        matrix[0, 0] = None
    with pytest.raises(ValueError, match='since must be "best" or "learned"'):
        matrix.forgetting(since="max")
    with pytest.raises(ValueError, match="AccuracyMatrix: num_tasks must be at least 1, got 0"):
        AccuracyMatrix(0)
    for metric in ("forgetting", "backward_transfer", "forward_transfer"):
        with pytest.raises(ValueError, match="need two tasks"):
            getattr(matrix, metric)(0)


def test_values_are_copies() -> None:
    matrix = full()
    matrix.values[0, 0] = 0
    matrix.before[0] = 0
    assert matrix[0, 0] == 0.75
    assert matrix.before[0] == 0.125


@pytest.mark.parametrize("entry", [0, (0,), (0, 0, 0), "01"])
def test_an_entry_is_a_pair(entry: Any) -> None:
    matrix = AccuracyMatrix(2)
    with pytest.raises(TypeError, match=r"AccuracyMatrix: an entry is \[after, task\]"):
        matrix[entry] = 0.5


def test_tasks_are_integers() -> None:
    matrix = AccuracyMatrix(2)
    with pytest.raises(TypeError, match="AccuracyMatrix: task must be an integer, got float"):
        matrix[1.5, 0] = 0.5  # type: ignore[index]
    with pytest.raises(TypeError, match="AccuracyMatrix: task must be an integer, got NoneType"):
        matrix.set_before(None, 0.5)  # type: ignore[arg-type]
