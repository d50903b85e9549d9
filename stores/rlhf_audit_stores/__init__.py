"""What several roles need to touch the world: durable files, object stores, logs, keys.

Every store is a small Protocol with an in-memory implementation beside it, and
one contract test for all of them. No rule of the format stands here.
"""
