"""Benchmarks, side by side with the alternatives in the same run."""
