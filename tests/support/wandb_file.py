"""Records of a .wandb file, which wandb 0.31 reads in its own program alone: a log of LevelDB's format, in protobuf."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK_BYTES = 32_768
HEADER = struct.Struct("<IHB")  # checksum, length, kind of the part
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_records(path: Path) -> Iterator[Any]:
    """Yield the records of a run, as wandb's protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data.startswith(MAGIC)
    offset, parts = len(MAGIC), []
    while offset < len(data):
        left = BLOCK_BYTES - offset % BLOCK_BYTES
        if left < HEADER.size:
            offset += left
            continue
        _, length, kind = HEADER.unpack_from(data, offset)
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        offset += HEADER.size
        parts.append(data[offset : offset + length])
        offset += length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts.clear()
            yield record
