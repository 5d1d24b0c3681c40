"""A job wrapper like a smarter flock: lock, idempotency key, retries, durable outcome."""
