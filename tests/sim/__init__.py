"""A deterministic simulator of guardrun: one seed is one schedule. Run it: ``make sim``."""
