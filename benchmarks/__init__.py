"""How fast, measured as ratios: `make bench`, or `python -m benchmarks.run --help`."""
