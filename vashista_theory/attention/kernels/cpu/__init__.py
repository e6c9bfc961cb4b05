"""Kernels for CPUs, compiled by Numba and called by XLA."""
