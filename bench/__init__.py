"""The benchmark: one table of medians and ratios. See README.md in this directory."""
