"""The cases: well formed, and every opponent computes what the op does."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from benchmarks import families, oracle
from benchmarks.case import Case, tensors
from benchmarks.families import index
from benchmarks.families.online import PAPER
from benchmarks.families.retrieval import Search
from benchmarks.families.scaling import SWEEPS
from clfast import ops, reference

ALL = [(family, case) for family in families.names() for case in families.cases(family)]
DROP_IN = [
    case
    for family in (families.IMPORTANCE, families.PLUGINS, families.REPLAY)
    for case in families.cases(family)
]
SMALL = [
    pytest.param(case, id=case.name)
    for case in (*(case for _, case in ALL), *DROP_IN)
    if case.small
]


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"'nothing'; there are adaptation, consolidation, exemplars, masks, optimizers, "
        r"recall, retrieval, scaling, calls, online, observe, index, importance, plugins, replay",
    ):
        families.cases("nothing")


@pytest.mark.parametrize("family", families.names())
def test_names_are_unique(family: str) -> None:
    cases = families.cases(family)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        names = [variant.name for variant in case.variants]
        assert len(set(names)) == len(names)
        assert {"clfast", "loop", "torch", "compiled"} <= {v.kind for v in case.variants}
        assert "clfast" in names


def test_cases_for_other_loops_are_told_apart_and_have_opponents() -> None:
    assert len({case.name for case in DROP_IN}) == len(DROP_IN)
    for case in DROP_IN:
        names = [variant.name for variant in case.variants]
        assert len(set(names)) == len(names)
        assert {"clfast", "torch"} <= {v.kind for v in case.variants}
        assert {"loop", "library"} & {v.kind for v in case.variants}


def test_a_sweep_changes_one_size() -> None:
    for sweep in SWEEPS:
        sizes = [dict(case.size) for case in sweep.cases]
        values = [size.pop(sweep.axis) for size in sizes]
        assert values == sorted(set(values), key=int)
        assert len(values) >= 3
        assert all(size == sizes[0] for size in sizes)
    cases = families.cases(families.SCALING)
    assert len({case.name for case in cases}) == len(cases)
    assert all(v.kind != "compiled" for case in cases for v in case.variants)


ONLINE = [
    pytest.param(case, id=case.name)
    for case in families.cases(families.ONLINE)
    if case.size["B"] == 1 and case.size["network"] != "ResNet-18"
]


@pytest.mark.parametrize("case", ONLINE)
def test_methods_and_their_rivals_predict_the_same(case: Case) -> None:
    with torch.no_grad():
        inputs = case.make_inputs(1, "cpu")
        expected = case.oracle(inputs)
        for variant in case.variants:
            (call,) = variant.bind([inputs])
            right = case.error(call(), expected, inputs) <= case.tolerance
            # Without an adaptation the prediction is another one, or nothing would be compared.
            assert right == variant.judged, variant.name


OBSERVE = [
    pytest.param(case, id=case.name)
    for case in families.cases(families.OBSERVE)
    if case.size["network"] not in ("ResNet-18", "ResNet-8", "MNIST")
]


@pytest.mark.parametrize("case", OBSERVE)
def test_steps_of_learning_lead_to_the_same_parameters(case: Case) -> None:
    inputs, others = (case.make_inputs(seed, "cpu") for seed in (1, 2))
    with torch.no_grad():
        expected, wrong = case.oracle(inputs), case.oracle(others)
        for variant in case.variants:
            if "compiled" not in variant.name:
                (call,) = variant.bind([inputs])
                # Every call does what the first does.
                for _ in range(2):
                    output = call()
                    assert case.error(output, expected, inputs) <= case.tolerance, variant.name
                assert case.error(output, wrong, inputs) > 100 * case.tolerance


@pytest.mark.parametrize("case", [p for p in SMALL if "step_ tensors" in p.id])
def test_a_step_that_moves_what_is_reserved_is_wrong(case: Case) -> None:
    inputs = case.make_inputs(1, "cpu")
    moved, moments = case.oracle(inputs)
    layers = list(zip(inputs.params, moved, inputs.reserved, strict=True))
    right = tuple(p.double() + m for p, m, _ in layers)
    wrong = tuple(p.double() + m + 1e-9 * r for p, m, r in layers)
    assert case.error((right, moments), (moved, moments), inputs) <= case.tolerance
    assert case.error((wrong, moments), (moved, moments), inputs) == float("inf")


RESTORED = [p for p in SMALL if p.id.split()[0] == "reserve_"]


@pytest.mark.parametrize("case", RESTORED)
def test_what_is_put_back_makes_every_call_the_first(case: Case) -> None:
    inputs = case.make_inputs(1, "cpu")
    with torch.no_grad():
        (call,) = case.variants[0].bind([inputs])
        for _ in range(2):
            assert case.error(call(), case.oracle(inputs), inputs) <= case.tolerance


def test_recall_counts_a_key_once_and_none_that_is_too_far() -> None:
    keys = torch.arange(10.0)[:, None]
    x = Search(torch.zeros(1, 1), keys, keys.square().sum(1))
    expected = torch.tensor([[9.0]], dtype=torch.float64)  # of the fourth neighbour
    for rows, share in (([0, 1, 2, 3], 0), ([0, 1, 2, 4], 1 / 4), ([0, 0, 0, 3], 2 / 4)):
        found = torch.tensor([rows])
        assert index.missed((found.double(), found), expected, x) == share


def test_indexes_that_are_exact_are_judged() -> None:
    for case in families.cases(families.INDEX):
        exact = case.size["index"] in ("exact", "bf16")
        assert all(v.judged == (exact or v.kind == "torch") for v in case.variants)


def test_every_op_has_a_call_with_nothing_to_do() -> None:
    cases = families.cases(families.CALLS)
    assert {case.op for case in cases} == {case.op for _, case in ALL}
    for case in cases:
        inputs = case.make_inputs(1, "cpu")
        expected = case.oracle(inputs)
        for variant in case.variants:
            (call,) = variant.bind([inputs])
            assert case.error(call(), expected, inputs) == 0, variant.name


def test_online_cases_cover_what_the_paper_times() -> None:
    cases = families.cases(families.ONLINE)
    assert len({case.name for case in cases}) == len(cases)
    assert {case.size["method"] for case in cases} == set(PAPER)


@pytest.mark.parametrize("family", families.names())
def test_every_op_of_a_family_has_a_case_and_a_small_one(family: str) -> None:
    module = getattr(ops, family)
    functions = {
        name
        for name in module.__all__
        if inspect.isfunction(function := getattr(module, name))
        and function.__module__ == module.__name__  # of others: without a kernel
    }
    assert {case.op for case in families.cases(family)} == functions
    assert {case.op for case in families.cases(family) if case.small} == functions


@pytest.mark.parametrize("case", SMALL)
def test_every_variant_is_right(case: Case) -> None:
    with torch.no_grad():
        inputs = case.make_inputs(1, "cpu")
        expected = case.oracle(inputs)
        for variant in case.variants:
            if variant.kind != "compiled" and variant.installed():
                (call,) = variant.bind([inputs])
                assert case.error(call(), expected, inputs) <= case.tolerance, variant.name


@pytest.mark.parametrize("case", SMALL)
def test_a_wrong_result_is_noticed(case: Case) -> None:
    """The oracle of one seed does not accept the result of another."""
    with torch.no_grad():
        inputs = case.make_inputs(1, "cpu")
        expected = case.oracle(case.make_inputs(2, "cpu"))
        (call,) = case.variants[0].bind([inputs])
        assert not case.error(call(), expected, inputs) <= case.tolerance


@pytest.mark.parametrize("case", SMALL)
def test_no_variant_changes_its_inputs(case: Case) -> None:
    with torch.no_grad():
        inputs, untouched = case.make_inputs(1, "cpu"), case.make_inputs(1, "cpu")
        for variant in case.variants:
            if variant.kind != "compiled" and variant.installed():
                variant.bind([inputs])[0]()
    for tensor, original in zip(tensors(inputs), tensors(untouched), strict=True):
        assert torch.equal(tensor, original)


@pytest.mark.parametrize("case", SMALL)
def test_work_is_whole_numbers_that_json_can_hold(case: Case) -> None:
    work = case.work(case.make_inputs(0, "cpu"))
    assert all(isinstance(number, int) and number >= 0 for number in work)
    assert json.loads(json.dumps(work._asdict())) == work._asdict()


def test_the_oracle_finds_what_the_reference_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    keys = torch.randn(100, 9, generator=generator, dtype=torch.float64)
    distances, indices = oracle.neighbors(queries, keys, 7)
    expected = reference.retrieval.knn(queries, keys, 7)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances, expected.sq_distances)
    torch.testing.assert_close(oracle.distances_to(queries, keys, indices), distances)
