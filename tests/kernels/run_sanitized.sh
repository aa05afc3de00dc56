#!/bin/sh
# The kernel tests under the address and the undefined-behaviour sanitizer. The emulator's own tests
# build sanitized programs anyway. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/../.."
library() { "${CXX:-g++}" -print-file-name="$1"; }

export CLFAST_SANITIZE=1
# Leak detection needs ptrace, which containers may refuse. An abort makes pytest print the test.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1
# The interpreter is not sanitized, so the sanitizer must be loaded first, and the C++ library right
# behind it, or exceptions are unknown to it. --capture=sys: a report must not end up in pytest's
# capture, which dies with the process.
LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)" exec "${PYTHON:-python}" -m pytest \
  tests/kernels --ignore=tests/kernels/test_emulator.py --capture=sys -q -n auto \
  --benchmark-disable "$@"
