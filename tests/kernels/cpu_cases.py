"""What the tests of the raw CPU kernels share."""

from __future__ import annotations

import pytest
from kernel_problems import ADAPTATION, KINDS

DTYPES = ["float32", "float64"]
TAILS = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65]

every_kernel = pytest.mark.parametrize("kernel", ADAPTATION)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_kind = pytest.mark.parametrize("kind", KINDS)
