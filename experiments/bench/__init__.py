"""What ``benchmark.py`` is made of: models of standard shapes, the naive way, clocks, growth, tables."""
