"""Builds _C_cuda.so for sm_80 and sm_90, without a warning, and holds each kernel to its registers.

The budget (tools/register_budget.json) gives each kernel its registers; no kernel may spill. After
a deliberate change, `check_cuda_build.py --write` records the new numbers, to be reviewed.

Without nvcc it fails, unless WITHOUT_NVCC is set in the environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "tools" / "register_budget.json"
BUILD = ROOT / "build" / "cuda"
ARCHITECTURES = "80-real;90-real"

Usage = dict[str, int]


def output_of(*command: str) -> str:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        last = "\n".join(result.stdout.splitlines()[-60:])
        sys.exit(f"{last}\nCUDA build: failed: {' '.join(command)}")
    return result.stdout


def build() -> str:
    """What nvcc and ptxas say of all kernels, which are compiled again."""
    output_of(
        *("cmake", "-S", str(ROOT), "-B", str(BUILD), "-GNinja", "-DCLFAST_CUDA=ON"),
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCLFAST_CUDA_ARCHITECTURES={ARCHITECTURES}",
        "-DCMAKE_CUDA_FLAGS=--Werror all-warnings",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={BUILD}",
    )
    return output_of("cmake", "--build", str(BUILD), "--target", "_C_cuda", "--clean-first")


def demangled(names: list[str]) -> dict[str, str]:
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    # void clfast::cuda::knn<float>(...) -> knn<float>
    short = [
        re.sub(r"^void |clfast::(cuda::)?", "", line).split("(")[0] for line in text.splitlines()
    ]
    return dict(zip(names, short, strict=True))


def parse_report(report: str) -> dict[str, dict[str, Usage]]:
    """Registers and spilled bytes of every kernel in ptxas' report, by architecture and name."""
    by_mangled: dict[str, dict[str, Usage]] = {}
    kernel: Usage = {}
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name, architecture = found.groups()
            kernel = {"registers": 0, "spilled": 0}
            by_mangled.setdefault(architecture, {})[name] = kernel
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernel["spilled"] = int(found.group(1)) + int(found.group(2))
        elif found := re.search(r"Used (\d+) registers", line):
            kernel["registers"] = int(found.group(1))
    names = demangled([name for kernels in by_mangled.values() for name in kernels])
    return {
        architecture: {names[mangled]: usage for mangled, usage in kernels.items()}
        for architecture, kernels in by_mangled.items()
    }


def problems(measured: dict[str, dict[str, Usage]], budget: dict[str, dict[str, int]]) -> list[str]:
    found = []
    for architecture, kernels in measured.items():
        allowed = budget.get(architecture, {})
        for kernel, usage in sorted(kernels.items()):
            where = f"{architecture} {kernel}"
            if usage["spilled"]:
                found.append(f"{where}: spills {usage['spilled']} bytes")
            if kernel not in allowed:
                found.append(f"{where}: {usage['registers']} registers, not in the budget")
            elif usage["registers"] > allowed[kernel]:
                found.append(
                    f"{where}: {usage['registers']} registers, the budget is {allowed[kernel]}"
                )
        found += [
            f"{architecture} {name}: in the budget, but gone"
            for name in allowed
            if name not in kernels
        ]
    return found


def main() -> int:
    if shutil.which("nvcc") is None:
        if os.environ.get("WITHOUT_NVCC"):
            print("CUDA build: not checked, WITHOUT_NVCC is set")
            return 0
        print("CUDA build: nvcc is not on PATH; WITHOUT_NVCC=1 checks the rest", file=sys.stderr)
        return 1
    measured = parse_report(build())
    if "--write" in sys.argv[1:]:
        numbers = {
            architecture: {name: usage["registers"] for name, usage in sorted(kernels.items())}
            for architecture, kernels in measured.items()
        }
        BUDGET.write_text(json.dumps(numbers, indent=1) + "\n")
        print(f"wrote {BUDGET.relative_to(ROOT)}")
        return 0
    found = problems(measured, json.loads(BUDGET.read_text()))
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        count = sum(len(kernels) for kernels in measured.values())
        print(f"CUDA build: {count} kernels for sm_80 and sm_90 within their registers, no spill")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
