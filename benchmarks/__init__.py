"""Speed of clfast beside what people use instead: the same work on the same inputs.

``families`` lists the cases, ``opponents`` holds what clfast is compared with, ``harness`` measures
one case, ``run`` measures all of them in several fresh processes, ``report`` makes tables and plots
of the result. ``pytest benchmarks --benchmark-only`` runs the same cases under pytest-benchmark,
and ``gpu_check`` does all that a machine with an NVIDIA GPU is needed for.
"""
