"""Benchmarks, with the alternatives measured in the same run."""
