"""The consolidation ops, in what the checks of every op do not see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import clfast
from clfast import ops, reference

backends = pytest.mark.parametrize("backend", ["compiled", "reference"])

# Around the vectors of every level and their multiples, and around the spans that threads take.
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 8191, 8192, 8193, 40_000)


def _row(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def _opposed(sizes: tuple[int, ...], rng: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    grads = [torch.randn(size, generator=rng) for size in sizes]
    return grads, [0.5 * torch.randn(g.shape, generator=rng) - g for g in grads]


def test_a_projection_is_orthogonal_and_the_nearest(simd_level: str, rng: torch.Generator) -> None:
    grads, memory = _opposed(SIZES, rng)
    g, r = _row(grads), _row(memory)
    ops.project_gradients_(grads, memory)
    projected = _row(grads)
    assert abs(float(projected @ r)) < 1e-6 * float(projected.norm() * r.norm())
    wanted = g - (g @ r) / (r @ r) * r
    torch.testing.assert_close(projected, wanted, rtol=0, atol=2.5e-7 * float(g.abs().max()))
    once = [t.clone() for t in grads]
    ops.project_gradients_(grads, memory)  # by now <g, r> is a rounding error, of either sign
    torch.testing.assert_close(_row(grads), _row(once), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_lists_of_one_tensor(size: int, simd_level: str, rng: torch.Generator) -> None:
    grads, memory = _opposed((size,), rng)
    wanted = [grads[0].double()]
    reference.consolidation.project_gradients_(wanted, [memory[0].double()])
    ops.project_gradients_(grads, memory)
    torch.testing.assert_close(grads[0].double(), wanted[0], rtol=0, atol=1e-6)


def test_where_one_list_is_cut_into_tensors_does_not_matter(
    simd_level: str, rng: torch.Generator
) -> None:
    (whole,), (memory,) = _opposed((100_000,), rng)
    sizes = (*SIZES, 100_000 - sum(SIZES))
    parts = list(whole.clone().split(sizes))
    ops.project_gradients_(parts, list(memory.split(sizes)))
    ops.project_gradients_([whole], [memory])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


@backends
def test_gradients_that_agree_stay_bit_for_bit(backend: str, rng: torch.Generator) -> None:
    grads, memory = _opposed((5, 1000), rng)
    kept = [t.clone() for t in grads]
    with clfast.backend(backend):
        ops.project_gradients_(grads, [-t for t in memory])
        ops.project_gradients_(grads, [torch.zeros_like(t) for t in memory])
        ops.project_gradients_(grads, grads)
    assert all(torch.equal(a, b) for a, b in zip(grads, kept, strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_sums_neither_overflow_nor_vanish(
    scale: float, simd_level: str, rng: torch.Generator
) -> None:
    """Squares of these are beyond float32."""
    grads, memory = _opposed((300,), rng)
    wanted = [t.clone() for t in grads]
    ops.project_gradients_(wanted, memory)
    small = [scale * t for t in memory]
    got = [scale * t for t in grads]
    ops.project_gradients_(got, small)
    torch.testing.assert_close(got[0] / scale, wanted[0], rtol=0, atol=1e-5)
    ops.project_gradients_(grads, small)
    torch.testing.assert_close(grads[0], wanted[0], rtol=0, atol=1e-5)


def test_a_million_entries_of_one_sign(simd_level: str) -> None:
    """Where float32 would lose what is added last: 1e6 equal terms, and one that turns the sign."""
    n = 1_000_000
    grads = [torch.full((n,), 2.0**-10), torch.tensor([-n * 2.0**-10 - 1])]
    ops.project_gradients_(grads, [torch.ones(n), torch.ones(1)])
    wanted = torch.full((n,), 2.0**-10 + 1 / (n + 1), dtype=torch.float64)
    torch.testing.assert_close(grads[0].double(), wanted, rtol=1e-7, atol=0)


@backends
def test_gradients_are_changed_where_they_lie(backend: str, rng: torch.Generator) -> None:
    """In whatever order of memory; what lies around a view stays."""
    whole = torch.randn(6, 8, generator=rng)
    grads = [
        torch.randn(4, 3, 5, 5, generator=rng).to(memory_format=torch.channels_last),
        torch.randn(7, 4, generator=rng).t(),
        whole[1:4, ::2],
        torch.randn(3, generator=rng).bfloat16(),
    ]
    memory = [-t.clone(memory_format=torch.contiguous_format) for t in grads]
    memory[1] = -grads[1].clone()  # transposed as well
    memory[0] = memory[0].to(memory_format=torch.channels_last)
    places, kept, around = [t.data_ptr() for t in grads], _row(grads), whole.clone()
    with clfast.backend(backend):
        ops.project_gradients_(grads, [t + 0.25 for t in memory])
    assert [t.data_ptr() for t in grads] == places
    r = _row([t + 0.25 for t in memory])
    wanted = kept - (kept @ r) / (r @ r) * r
    torch.testing.assert_close(_row(grads[:3]), wanted[:-3], rtol=0, atol=1e-6)
    torch.testing.assert_close(_row(grads[3:]), wanted[-3:], rtol=0, atol=0.02)
    around[1:4, ::2] = whole[1:4, ::2]
    assert torch.equal(whole, around)


@backends
def test_parameters_and_their_gradients_are_taken_as_they_are(backend: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    (grad,) = torch.autograd.grad(weight.square().sum(), weight, create_graph=True)
    assert grad.requires_grad
    with clfast.backend(backend):
        ops.project_gradients_([grad], [torch.tensor([-1.0, 0.0])])
        ops.project_gradients_([weight], [torch.tensor([0.0, -1.0], requires_grad=True)])
    assert grad.tolist() == [0.0, 4.0]
    assert weight.tolist() == [1.0, 0.0]
    assert weight.is_leaf


@backends
def test_a_projection_is_seen_by_autograd(backend: str) -> None:
    weight, grad = torch.ones(2, requires_grad=True), torch.ones(2)
    product = (weight * grad).sum()
    with clfast.backend(backend):
        ops.project_gradients_([grad], [-grad])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, at first use
@backends
def test_transforms_are_refused(backend: str) -> None:
    """They would differentiate as if nothing had been projected."""

    def project(g: Tensor) -> Tensor:
        g = g.clone()
        ops.project_gradients_([g], [-torch.ones(3)])
        return g.sum()

    with clfast.backend(backend):
        for transformed in (
            lambda x: torch.func.grad(project)(x),
            lambda x: torch.func.jvp(project, (x,), (x,)),
        ):
            with pytest.raises(
                RuntimeError, match=r"clfast::project_gradients_: grads\[0\] requires grad"
            ):
                transformed(torch.ones(3))


def test_lists_that_require_grad_compile(rng: torch.Generator) -> None:
    grads, memory = _opposed((5, 40), rng)
    wanted = [t.clone() for t in grads]
    ops.project_gradients_(wanted, memory)
    compiled = torch.compile(ops.project_gradients_, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(grads, [r.requires_grad_() for r in memory])
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted, strict=True))
    torch.compiler.reset()


@backends
def test_what_is_not_finite_leaves_everything_as_it_was(backend: str) -> None:
    for bad in (float("nan"), float("inf")):
        grads, memory = [torch.ones(3), torch.ones(2)], [-torch.ones(3), torch.tensor([-1.0, bad])]
        with (
            clfast.backend(backend),
            pytest.raises(RuntimeError, match="clfast::project_gradients_: "),
        ):
            ops.project_gradients_(grads, memory)
        assert all(torch.equal(t, torch.ones_like(t)) for t in grads)


def test_float64_that_overflows_is_told() -> None:
    grads, memory = [torch.ones(3).double()], [torch.full((3,), -1e200, dtype=torch.float64)]
    with pytest.raises(RuntimeError, match="hold infinities, or their products overflow"):
        ops.project_gradients_(grads, memory)
    assert grads[0].tolist() == [1.0, 1.0, 1.0]


def _gem(
    tasks: int, size: int, rng: torch.Generator, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Tasks that have much in common with each other, and little against the gradient."""
    grad = torch.randn(size, generator=rng, dtype=torch.float64)
    shared = torch.randn(size, generator=rng, dtype=torch.float64)
    own = torch.randn(tasks, size, generator=rng, dtype=torch.float64)
    return grad.to(dtype), (own + shared - 0.1 * grad).to(dtype)


@pytest.mark.parametrize(("tasks", "size"), [(1, 4096), (7, 50_000), (40, 3000), (30, 10)])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_near_its_definition(
    tasks: int, size: int, margin: float, simd_level: str, rng: torch.Generator
) -> None:
    for dtype, error in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        grad, memory = _gem(tasks, size, rng, dtype)
        kept = grad.clone()
        got = ops.gem_project(grad, memory, margin).double()
        wanted = reference.consolidation.gem_project(grad.double(), memory.double(), margin)
        torch.testing.assert_close(got, wanted, rtol=0, atol=error * float(wanted.abs().max()))
        assert torch.equal(grad, kept)
        # But for the ridge's part, it agrees with every task.
        assert float((memory.double() @ got).min()) > -0.05


def test_gem_of_one_task_is_the_projection_of_agem(rng: torch.Generator) -> None:
    grad, memory = _gem(1, 1000, rng, torch.float64)
    got = ops.gem_project(grad, memory, 0.0)
    ops.project_gradients_([grad], [memory[0]])
    torch.testing.assert_close(got, grad, rtol=1e-6, atol=1e-6)  # the ridge is 1e-3 of 2000


@backends
def test_gem_without_a_conflict_gives_an_equal_gradient(backend: str, rng: torch.Generator) -> None:
    grad, memory = _gem(5, 100, rng)
    agreeing = (memory @ grad).sign()[:, None] * memory
    with clfast.backend(backend):
        for given in (agreeing, torch.zeros(3, 100), agreeing[:0]):
            got = ops.gem_project(grad, given, 0.5)
            assert torch.equal(got, grad)
            assert got.data_ptr() != grad.data_ptr()
