"""From ``flock``, ``timeout``, ``chronic`` and their like, in crontabs and units, to guardrun.

Pure but for ``file`` and ``state``: text goes in; text, and what is to be said about it, comes out.
Words of a line are never put together anew: those of the prefix are replaced, the others stay as
they were written, so whoever reads the line, a shell or systemd, sees the same as before.
"""
