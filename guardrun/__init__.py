"""A job wrapper like a smarter flock: lock, idempotency key, retries, durable outcome."""

__version__ = "0.1.0"
