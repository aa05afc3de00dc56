"""The checks that every op passes, whatever it computes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from op_samples import CASES, OpCase, flat, map_tensors, to_float64
from sizes import TAILS, Sizes
from torch import Tensor

import clfast
from clfast import ops, reference
from clfast.ops import _call

every_op = pytest.mark.parametrize("case", CASES, ids=str)


def assert_near_oracle(case: OpCase, args: Any, kwargs: Any, units: float = 64) -> None:
    """The op's result equals the float64 reference within `units` roundings of the largest entry.

    Terms cancel in logits, so the error is measured against the largest entry, not each one; a sum
    of n terms is given sqrt(n) of its worst case.
    """
    got = flat(case.op(*args, **kwargs))
    dtype = {"dtype": torch.float64} if "dtype" in kwargs else {}
    wanted = flat(case.oracle(*to_float64(args), **{**to_float64(kwargs), **dtype}))
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape
        if not ours.is_floating_point():
            assert torch.equal(ours, theirs)
            continue
        scale = theirs.abs().amax().item() if theirs.numel() else 1.0
        tolerance = units * torch.finfo(ours.dtype).eps * max(scale, case.scale)
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance)


def test_every_public_op_has_a_case() -> None:
    """But for functions of modules of their own, which have no kernel."""
    public = {
        name
        for module in (
            *(ops.retrieval, ops.adaptation, ops.recall, ops.consolidation),
            *(ops.masks, ops.optimizers, ops.exemplars),
        )
        for name in module.__all__
        if inspect.isfunction(function := getattr(module, name))
        and function.__module__ == module.__name__
    }
    assert public == {case.name for case in CASES}


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_equals_float64_reference_at_every_level(
    case: OpCase, dtype: torch.dtype, simd_level: str, rng: torch.Generator
) -> None:
    assert_near_oracle(case, *case.make(Sizes(), dtype, rng))


@every_op
@pytest.mark.parametrize("size", TAILS)
@pytest.mark.parametrize("axis", ["batch", "rows", "k", "dim", "classes"])
def test_tails(case: OpCase, axis: str, size: int, simd_level: str, rng: torch.Generator) -> None:
    sizes = Sizes(**{**Sizes(rows=40).__dict__, axis: size})
    assert_near_oracle(case, *case.make(sizes, torch.float32, rng))


@every_op
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_precision_inputs_are_widened(
    case: OpCase, dtype: torch.dtype, rng: torch.Generator
) -> None:
    args, kwargs = case.make(Sizes(), dtype, rng)
    # A step would be lost in the rounding of what it changes.
    if case.name == "recall_step_" or case.family == "optimizers":
        with pytest.raises(RuntimeError, match="must be float32 or float64"):
            case.op(*args, **kwargs)
        return
    assert_near_oracle(case, args, kwargs)
    for result in flat(case.op(*args, **kwargs)):
        float_dtype = dtype if case.in_place else torch.float32
        assert result.dtype == float_dtype or not result.is_floating_point()


def _transposed(t: Tensor) -> Tensor:
    return t.t().contiguous().t() if t.dim() == 2 else t


def _sliced(t: Tensor) -> Tensor:
    if t.dim() == 0:
        return t
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 3), 7, dtype=t.dtype)
    view = wide[..., 1 : 2 * t.shape[-1] + 1 : 2]
    view.copy_(t)
    return view


def _offset(t: Tensor) -> Tensor:
    whole = torch.full((t.numel() + 3,), 1, dtype=t.dtype)
    view = whole[3:].view(t.shape)
    view.copy_(t)
    return view


@every_op
@pytest.mark.parametrize("layout", [_transposed, _sliced, _offset])
def test_layouts_do_not_matter(case: OpCase, layout: Any, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)
    wanted = flat(case.op(*args, **kwargs))
    got = flat(case.op(*map_tensors(args, layout), **map_tensors(kwargs, layout)))
    for ours, theirs in zip(got, wanted, strict=True):
        # torch's GEMM, which forms the base logits, rounds differently at another alignment.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        assert ours.is_contiguous() or case.in_place


@every_op
def test_expanded_inputs(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)

    def expanded(t: Tensor) -> Tensor:
        same = t.dim() == 2 and t.is_floating_point()
        return t[:1].expand_as(t) if same else t

    args, kwargs = map_tensors(args, expanded), map_tensors(kwargs, expanded)
    dense = map_tensors(args, Tensor.contiguous), map_tensors(kwargs, Tensor.contiguous)
    for ours, theirs in zip(
        flat(case.op(*args, **kwargs)), flat(case.op(*dense[0], **dense[1])), strict=True
    ):
        assert torch.equal(ours, theirs)


@every_op
def test_empty_batch(case: OpCase, rng: torch.Generator) -> None:
    no_batch = ("class_means", "interpolation_weights", "gem_project", "pack_mask", "unpack_mask")
    if case.name in (*no_batch, "softmax_descent") or case.takes_lists:
        pytest.skip("has no batch; see the test below")
    args, kwargs = case.make(Sizes(batch=0), torch.float32, rng)
    # A loss is a number also where there is nothing to sum.
    assert all(result.shape[:1] in ((0,), ()) for result in flat(case.op(*args, **kwargs)))


def test_empty_inputs_without_a_batch() -> None:
    means = ops.class_means(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), 3)
    assert torch.equal(means, torch.zeros(3, 4))
    layer = torch.randn(3, 4), torch.randn(3)
    kept = ops.softmax_descent(
        *(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), *layer), steps=5, lr=1.0
    )
    assert all(torch.equal(t, given) for t, given in zip(kept, layer, strict=True))
    assert ops.interpolation_weights(torch.empty(0, dtype=torch.int64), 0.5).shape == (0,)
    ops.project_gradients_([], [])
    ops.project_gradients_([torch.empty(0, 3)], [torch.empty(0, 3)])
    assert ops.gem_project(torch.empty(0), torch.empty(3, 0), 0.5).shape == (0,)
    assert ops.quadratic_penalty([], [], []) == 0
    assert ops.quadratic_penalty(*([torch.empty(0, 3)] for _ in range(3))) == 0
    ops.add_penalty_gradients_([], [], [], [], 1.0)
    ops.add_penalty_gradients_(*([torch.empty(0, 3)] for _ in range(4)), 1.0)
    ops.path_integral_([], [], [])
    ops.path_integral_(*([torch.empty(0, 3)] for _ in range(3)))
    ops.masked_sgd_step_([], [], [], [], lr=0.1)
    ops.masked_sgd_step_([torch.empty(0, 3)], [torch.empty(0, 3)], [], [None], lr=0.1)
    ops.masked_adam_step_([], [], [], [], [], [], steps=[], lr=0.1)
    assert ops.masked_grad_norm([], []) == 0
    assert ops.masked_grad_norm([torch.empty(0)], [torch.empty(0, dtype=torch.bool)]) == 0
    grad = torch.tensor([1.0, -2.0])
    assert torch.equal(ops.gem_project(grad, torch.empty(0, 2), 0.5), grad)


def _bytes(tensor: Tensor) -> Tensor:
    """Which are equal where NaN is, as in what rounded keys hold beside their numbers."""
    return tensor.flatten().contiguous().view(torch.uint8)


@every_op
def test_inputs_are_left_as_they_were(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)
    kept = map_tensors(args, Tensor.clone), map_tensors(kwargs, Tensor.clone)
    case.op(*args, **kwargs)
    pairs = zip(_tensors((args, kwargs)), _tensors(kept), strict=True)
    assert all(torch.equal(_bytes(now), _bytes(before)) for now, before in pairs)


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(value, lambda t: (found.append(t), t)[1])
    return found


@every_op
def test_same_bits_twice_and_on_one_thread(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(batch=150, rows=3000, k=30), torch.float32, rng)
    first = flat(case.op(*args, **kwargs))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = flat(case.op(*args, **kwargs))
    finally:
        torch.set_num_threads(threads)
    again = flat(case.op(*args, **kwargs))
    for a, b, c in zip(first, again, single, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@every_op
def test_opcheck(case: OpCase, rng: torch.Generator) -> None:
    """Schema, fake kernel and dispatch, on contiguous and on transposed inputs.

    (An input that requires grad is refused by these ops; that has its own test.)
    """
    for layout in (Tensor.contiguous, _transposed):
        args, kwargs = case.make(Sizes(), torch.float32, rng)
        args, kwargs = map_tensors(args, layout), map_tensors(kwargs, layout)
        seen: list[tuple[Any, ...]] = []
        _capture(case, args, kwargs, seen)
        overload = getattr(torch.ops.clfast, case.name).default
        torch.library.opcheck(overload, seen[0])


def _capture(case: OpCase, args: Any, kwargs: Any, seen: list[tuple[Any, ...]]) -> None:
    """The arguments that the public function hands to the registered op."""
    compiled = _call.compiled

    def record(op: str, *given: Any) -> Any:
        seen.append(given)
        return compiled(op, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_call, "compiled", record)
        case.op(*args, **kwargs)


@every_op
def test_compiles(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)
    compiled = torch.compile(
        lambda a, b: case.op(*a, **b), fullgraph=case.traceable, backend="aot_eager"
    )
    with torch.no_grad():
        got = flat(compiled(args, kwargs))
    for ours, theirs in zip(got, flat(case.op(*args, **kwargs)), strict=True):
        assert torch.equal(ours, theirs)
    torch.compiler.reset()


@every_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(case: OpCase, dtype: torch.dtype, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)
    wanted = flat(case.op(*args, **kwargs))
    with torch.autocast("cpu", dtype=dtype):
        got = flat(case.op(*args, **kwargs))
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.equal(ours, theirs)


@every_op
def test_reference_backend_gives_the_same(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float64, rng)
    compiled = flat(case.op(*args, **kwargs))
    with clfast.backend("reference"):
        plain = flat(case.op(*args, **kwargs))
    for ours, theirs in zip(plain, compiled, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_op
def test_reference_has_the_same_signature(case: OpCase) -> None:
    def shape(module: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(module, case.name)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert shape(ops) == shape(getattr(reference, case.family))


@every_op
def test_inputs_that_require_grad_are_refused(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)
    floats = [t for t in _tensors((args, kwargs)) if t.is_floating_point()]
    if case.differentiable_in:
        assert floats[0] is args[0]
        return  # tested with the family
    if case.takes_lists:
        return  # tested with the family
    if not floats:
        assert case.name in ("interpolation_weights", "pack_mask", "unpack_mask")
        return
    wanted = flat(case.op(*args, **kwargs))
    for tensor in floats:
        tensor.requires_grad_()
        with pytest.raises(RuntimeError, match=rf"clfast::{case.name}: \S+ requires grad"):
            case.op(*args, **kwargs)
        with torch.no_grad():
            got = flat(case.op(*args, **kwargs))
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
        tensor.requires_grad_(False)


@every_op
def test_runs_under_inference_mode(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = case.make(Sizes(), torch.float32, rng)
    wanted = flat(case.op(*args, **kwargs))
    with torch.inference_mode():
        got = flat(case.op(*args, **kwargs))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_backend_switch() -> None:
    with pytest.raises(ValueError, match=r"clfast.backend: name must be"):
        clfast.backend("numpy")  # type: ignore[arg-type]
    with clfast.backend("reference"):
        assert clfast._backend.backend_in_use() == "reference"
        with clfast.backend("compiled"):
            assert clfast._backend.backend_in_use() == "compiled"
        assert clfast._backend.backend_in_use() == "reference"
    assert clfast._backend.backend_in_use() == "compiled"
    block = clfast.backend("reference")
    for _ in range(2):  # a block may be entered again
        with block:
            assert clfast._backend.backend_in_use() == "reference"
        assert clfast._backend.backend_in_use() == "compiled"
    assert reference.retrieval.knn is not ops.knn
