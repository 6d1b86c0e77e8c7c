"""Named streams of random numbers, independent of each other."""

import hashlib


def stream_seed(seed: int, name: str) -> int:
    """The seed of one named stream of random numbers: 63 bits of a hash, so that streams are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
