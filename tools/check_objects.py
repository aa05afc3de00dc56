"""Checks the compiled objects: what the libraries import, and what each SIMD level contains.

* The libraries import no mangled symbol of torch: they load with every torch from 2.11 on.
* A unit of a SIMD level contains packed instructions of that level and none of a higher one.
* A unit of a SIMD level defines no symbol that another unit could share: the linker keeps one copy
  of a shared symbol, and would hand AVX-512 code to a processor without it.
* AMX is used in its own unit alone.

Usage: check_objects.py BUILD_FOLDER LIBRARY...
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

REGISTERS = {"base": "xmm", "avx2": "ymm", "avx512": "zmm"}
ABOVE = {"base": ("ymm", "zmm"), "avx2": ("zmm",), "avx512": ()}


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def foreign_imports(library: Path) -> list[str]:
    """Mangled symbols of torch that the library wants from outside."""
    symbols = output_of("nm", "-DC", "--undefined-only", str(library))
    return [line.strip() for line in symbols.splitlines() if re.search(r"\b(c10|at|torch)::", line)]


def level_of(unit: Path) -> str | None:
    found = re.search(r"_(base|avx2|avx512)\.cpp\.o$", unit.name)
    return found.group(1) if found else None


def problems_of_unit(unit: Path, level: str) -> list[str]:
    problems = []
    code = output_of("objdump", "-d", "--no-show-raw-insn", str(unit))
    packed = re.findall(rf"\b\w+p[sd] .*%{REGISTERS[level]}\d", code)
    if not packed:
        problems.append(f"no packed instruction on {REGISTERS[level]} registers")
    problems += [
        f"uses {register} registers" for register in ABOVE[level] if f"%{register}" in code
    ]
    if level == "base" and re.search(r"\bv(add|mul|mov|fmadd)\w* .*%xmm", code):
        problems.append("uses AVX instructions")
    for line in output_of("nm", "-C", "--defined-only", str(unit)).splitlines():
        _, kind, name = line.split(maxsplit=2)
        shared = kind in "WVu" and f"clfast::cpu::{level}::" not in name
        if shared and not name.startswith("DW.ref."):
            problems.append(f"defines {name}, which other units may share")
    return problems


def uses_tiles(unit: Path) -> bool:
    return "%tmm" in output_of("objdump", "-d", "--no-show-raw-insn", str(unit))


def main() -> int:
    build, libraries = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    failures = []
    for library in libraries:
        failures += [f"{library}: imports {symbol}" for symbol in foreign_imports(library)]
    units = [(unit, level) for unit in sorted(build.rglob("*.o")) if (level := level_of(unit))]
    levels = REGISTERS if platform.machine() == "x86_64" else {"base": "xmm"}
    tiles = [unit for unit in sorted(build.rglob("*.o")) if uses_tiles(unit)]
    failures += [f"{unit.name}: uses AMX" for unit in tiles if unit.name != "amx.cpp.o"]
    missing = set(levels) - {level for _, level in units}
    failures += [f"{build}: no object of level {level}" for level in sorted(missing)]
    if platform.machine() == "x86_64":
        for unit, level in units:
            failures += [f"{unit.name}: {problem}" for problem in problems_of_unit(unit, level)]
    for failure in failures:
        print(failure, file=sys.stderr)
    if not failures:
        names = ", ".join(str(library) for library in libraries)
        print(f"{names}: no symbol of torch's C++ ABI; {len(units)} units hold their SIMD level")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
