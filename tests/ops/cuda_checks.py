"""What every op is held to on a GPU; the files test_<family>_cuda.py run it family by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_samples import CASES, OpCase, flat, map_tensors, to_float64
from sizes import TAILS, Sizes
from torch import Tensor

from clfast.ops import Neighbors


def cases_of(family: str) -> list[OpCase]:
    return [case for case in CASES if case.family == family]


def to_gpu(value: Any, device: str = "cuda") -> Any:
    return map_tensors(value, lambda t: t.to(device))


def check_against_reference(case: OpCase, sizes: Sizes, dtype: torch.dtype, seed: int = 0) -> None:
    """The op on the GPU equals the float64 reference on the CPU."""
    args, kwargs = case.make(sizes, dtype, torch.Generator().manual_seed(seed))
    got = flat(case.op(*to_gpu(args), **to_gpu(kwargs)))
    exact = {"dtype": torch.float64} if "dtype" in kwargs else {}
    wanted = flat(case.oracle(*to_float64(args), **{**to_float64(kwargs), **exact}))
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.device.type == "cuda"
        assert ours.is_contiguous()
        if not ours.is_floating_point():
            assert torch.equal(ours.cpu(), theirs)
            continue
        scale = theirs.abs().amax().item() if theirs.numel() else 1.0
        tolerance = 128 * torch.finfo(ours.dtype).eps * max(scale, case.scale)
        torch.testing.assert_close(ours.double().cpu(), theirs, rtol=0, atol=tolerance)


def check_tails(case: OpCase) -> None:
    for axis in ("batch", "rows", "k", "dim", "classes"):
        for size in (*TAILS, 63, 64, 65, 257):
            sizes = Sizes(**{**Sizes(rows=300).__dict__, axis: size})
            check_against_reference(case, sizes, torch.float32)


def check_large(case: OpCase) -> None:
    sizes = Sizes(batch=300, rows=5000, k=300, dim=200, classes=300)
    check_against_reference(case, sizes, torch.float32)


def check_layouts(case: OpCase) -> None:
    args, kwargs = to_gpu(case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0)))

    def transposed(t: Tensor) -> Tensor:
        return t.t().contiguous().t() if t.dim() == 2 else t

    got = flat(case.op(*map_tensors(args, transposed), **map_tensors(kwargs, transposed)))
    for ours, theirs in zip(got, flat(case.op(*args, **kwargs)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def check_same_bits(case: OpCase) -> None:
    args, kwargs = to_gpu(
        case.make(
            Sizes(batch=70, rows=3000, k=260), torch.float32, torch.Generator().manual_seed(0)
        )
    )
    first, again = flat(case.op(*args, **kwargs)), flat(case.op(*args, **kwargs))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def check_no_synchronisation(case: OpCase) -> None:
    if not case.traceable:
        return  # waits for the number of its results
    args, kwargs = to_gpu(case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0)))
    case.op(*args, **kwargs)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.op(*args, **kwargs)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check_runs_on_the_current_stream(case: OpCase) -> None:
    """Captured into a graph, an op must put every launch on torch's stream."""
    if not case.traceable:
        return  # waits for the number of its results
    args, kwargs = to_gpu(case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0)))
    wanted = [t.clone() for t in flat(case.op(*args, **kwargs))]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        case.op(*args, **kwargs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = flat(case.op(*args, **kwargs))
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(captured, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def check_compiles(case: OpCase) -> None:
    args, kwargs = to_gpu(case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0)))
    compiled = torch.compile(
        lambda a, b: case.op(*a, **b), fullgraph=case.traceable, backend="aot_eager"
    )
    with torch.no_grad():
        got = flat(compiled(args, kwargs))
    for ours, theirs in zip(got, flat(case.op(*args, **kwargs)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.compiler.reset()


def check_second_device(case: OpCase) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    args, kwargs = case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0))
    first = flat(case.op(*to_gpu(args), **to_gpu(kwargs)))
    second = flat(case.op(*to_gpu(args, "cuda:1"), **to_gpu(kwargs, "cuda:1")))
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first, second, strict=True))


def check_devices_must_agree(case: OpCase) -> None:
    if case.name in ("interpolation_weights", "pack_mask", "unpack_mask"):
        return  # one tensor
    args, kwargs = case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0))
    mixed = list(args)
    mixed[0] = to_gpu(args[0])
    with pytest.raises(RuntimeError, match=rf"clfast::{case.name}: .*different devices"):
        case.op(*mixed, **kwargs)


def without_first_neighbour(neighbors: Neighbors, row: int) -> Neighbors:
    """The same neighbours with an index outside the memory in front."""
    indices = neighbors.indices.clone()
    indices[:, 0] = row
    return Neighbors(neighbors.sq_distances, indices)


CHECKS = [
    check_tails,
    check_large,
    check_layouts,
    check_same_bits,
    check_no_synchronisation,
    check_runs_on_the_current_stream,
    check_compiles,
    check_second_device,
    check_devices_must_agree,
]
