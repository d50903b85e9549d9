"""The pure core of the trail: bytes in, bytes out; no I/O, no clock, no randomness."""
