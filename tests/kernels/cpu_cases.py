"""What the tests of the raw CPU kernels share."""

from __future__ import annotations

from types import ModuleType

import pytest
from kernel_problems import ADAPTATION, KINDS

DTYPES = ["float32", "float64"]
TAILS = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65]

LEVELS = ["base", "avx2", "avx512", "avx512_bf16", "amx"]
EMULATED_AMX = "amx emulated"  # with vectors of AVX2
PRODUCTS_OF_BFLOAT16 = ["avx512_bf16", "amx"]
ROUNDING = [*PRODUCTS_OF_BFLOAT16, EMULATED_AMX]
EMULATED_AMX_SLOWLY = pytest.param(EMULATED_AMX, marks=pytest.mark.slow)


def level_called(cpu: ModuleType, name: str) -> int:
    """What the kernels know it by; skips the test where this processor lacks it."""
    number: int = cpu.EMULATED_AMX if name == EMULATED_AMX else LEVELS.index(name)
    if cpu.best_level < (LEVELS.index("avx2") if name == EMULATED_AMX else number):
        pytest.skip("this processor has no such SIMD level")
    return number


def without_rounding(cpu: ModuleType, level: int) -> int:
    """The level of the same vectors, which looks for candidates in float."""
    return LEVELS.index("avx2" if level == cpu.EMULATED_AMX else "avx512")


every_kernel = pytest.mark.parametrize("kernel", ADAPTATION)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_kind = pytest.mark.parametrize("kind", KINDS)
