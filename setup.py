"""Drives CMake, which alone knows sources and flags, and tags the wheel py3-none-<platform>."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def cuda_compiler() -> str | None:
    """nvcc's real path, or None for a CPU build. CLFAST_CUDA=auto|0|1 decides."""
    wish = os.environ.get("CLFAST_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        sys.exit(f"clfast: CLFAST_CUDA must be auto, 0 or 1, got {wish!r}")
    if wish == "0":
        return None
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        if wish == "1":
            sys.exit("clfast: CLFAST_CUDA=1 but there is no nvcc on PATH (or set CUDACXX)")
        print("clfast: no nvcc on PATH: building for the CPU only", flush=True)
        return None
    # A wrapper script on PATH hides where the toolkit lies; nvcc itself knows.
    trial = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True
    ).stderr
    top = [line.split("TOP=", 1)[1] for line in trial.splitlines() if "TOP=" in line]
    return str((Path(top[0].strip()) / "bin" / "nvcc").resolve()) if top else nvcc


def cuda_architectures() -> str | None:
    """TORCH_CUDA_ARCH_LIST in CMake's spelling ("8.0 9.0+PTX" -> "80-real;90"), None when unset."""
    names = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    return (
        ";".join(
            name.removesuffix("+PTX").replace(".", "") + ("" if name.endswith("+PTX") else "-real")
            for name in names
        )
        or None
    )


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if importlib.util.find_spec("torch") is None:
            sys.exit(
                "clfast: torch's headers are needed to build: pip install torch, then "
                "pip install --no-build-isolation ."
            )
        # An environment that is not activated has its tools beside its Python.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        for tool in ("cmake", "ninja"):
            if shutil.which(tool, path=path) is None:
                sys.exit(f"clfast: {tool} is needed to build: pip install {tool}")
        compilers = [os.environ.get("CXX") or "g++", "g++"]
        if not any(shutil.which(name, path=path) for name in compilers):
            sys.exit("clfast: a C++ compiler is needed to build: apt-get install g++")
        out = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        # An editable install is built again and again: keep its objects.
        in_place = self.inplace or self.editable_mode
        build = ROOT / "build" / "editable" if in_place else Path(self.build_temp).resolve()
        nvcc = cuda_compiler()
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-GNinja"),
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={out}",
            f"-DCLFAST_CUDA={'ON' if nvcc else 'OFF'}",
        ]
        if nvcc:
            configure.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
            if architectures := cuda_architectures():
                configure.append(f"-DCLFAST_CUDA_ARCHITECTURES={architectures}")
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        for step in (configure, ["cmake", "--build", str(build), "-j", jobs]):
            if subprocess.run(step, env=os.environ | {"PATH": path}).returncode != 0:
                sys.exit(f"clfast: {' '.join(step[:2])} failed; the reason is above")

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"


class AnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("clfast._C", [])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPython},
)
