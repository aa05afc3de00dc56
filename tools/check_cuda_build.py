"""Compiles every CUDA kernel for sm_80 and sm_90 and holds it to its register budget.

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
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "tools" / "register_budget.json"
ARCHITECTURES = ("80", "90")

Usage = dict[str, int]


def compile_one(source: Path, architecture: str) -> str:
    """ptxas' report on the kernels of one file."""
    command = ["nvcc", "-std=c++17", "-O3", "-c", str(source)]
    command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["-Xptxas", "-v", "--Werror", "all-warnings", "-o", f"{folder}/kernel.o"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(
            f"{source.relative_to(ROOT)} does not compile for sm_{architecture}:\n"
            f"{result.stdout}{result.stderr}"
        )
    return result.stderr


def demangled(names: list[str]) -> dict[str, str]:
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    # void clfast::cuda::knn<float>(...) -> knn<float>
    short = [
        re.sub(r"^void |clfast::(cuda::)?", "", line).split("(")[0] for line in text.splitlines()
    ]
    return dict(zip(names, short, strict=True))


def parse_report(report: str) -> dict[str, Usage]:
    """Registers and spilled bytes of every kernel in ptxas' report, by mangled name."""
    usage: dict[str, Usage] = {}
    name = ""
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found.group(1)
            usage[name] = {"registers": 0, "spilled": 0}
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if name:
                usage[name]["spilled"] = int(found.group(1)) + int(found.group(2))
        elif (found := re.search(r"Used (\d+) registers", line)) and name:
            usage[name]["registers"] = int(found.group(1))
    return usage


def measure() -> dict[str, dict[str, Usage]]:
    sources = sorted((ROOT / "csrc" / "kernels" / "cuda").glob("*.cu"))
    jobs = [(source, architecture) for source in sources for architecture in ARCHITECTURES]
    measured: dict[str, dict[str, Usage]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = pool.map(lambda job: compile_one(*job), jobs)
        for (_, architecture), report in zip(jobs, reports, strict=True):
            usage = parse_report(report)
            names = demangled(list(usage))
            measured.setdefault(f"sm_{architecture}", {}).update(
                {names[mangled]: numbers for mangled, numbers in usage.items()}
            )
    return measured


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
    os.chdir(ROOT)
    measured = measure()
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
