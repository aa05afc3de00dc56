"""For the tests with the real Avalanche: what its import needs, and the example that they run."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.torchvision_ops import declare_missing

declare_missing()
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
