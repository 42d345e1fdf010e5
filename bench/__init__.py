"""Benchmarks of skerry beside its peers, side by side in one run; see docs/benchmarks.md."""
