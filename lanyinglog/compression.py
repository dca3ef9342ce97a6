"""How the body of a run may be compressed: a client's choice for each batch, unread by nodes.

| codec | number | log lines, one core | for |
|---|---|---|---|
| none | 0 | | random bytes, images, what is compressed already |
| zstd | 1 | a twelfth, at 540 MB/s | a disk or network that is the limit |
| lz4 | 2 | a seventh, at 1,100 MB/s | a client whose processor is the limit |

zstd is one frame that states its content size, level 1; lz4 is one block (no frame, no length before it). How long the
body is once decompressed stands beside it (`record`), was bounded before anything is decompressed, and is believed only
where it is true.
"""

from __future__ import annotations

import threading

import lz4.block
import zstandard

from lanyinglog.errors import BadBatch

CODEC_NONE = 0
CODEC_ZSTD = 1
CODEC_LZ4 = 2
CODECS = {"none": CODEC_NONE, "zstd": CODEC_ZSTD, "lz4": CODEC_LZ4}
"""What a user calls them -> their numbers in a run."""
CODEC_NUMBERS = frozenset(CODECS.values())


class _Compressors(threading.local):
    """What a thread compresses with: a compressor has tables of a megabyte, and serves one thread at a time."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdCompressor(level=1, write_content_size=True)


_compressors = _Compressors()


def compress(codec: int, body: bytes) -> bytes:
    """``body`` in ``codec``; may be a little longer than before. `BadBatch` for an unknown codec."""
    if codec == CODEC_NONE:
        return body
    if codec == CODEC_ZSTD:
        return _compressors.zstd.compress(body)
    if codec == CODEC_LZ4:
        compressed: bytes = lz4.block.compress(body, store_size=False)
        return compressed
    raise BadBatch(f"unknown codec {codec}")


def decompress(codec: int, body: bytes, decoded_bytes: int) -> bytes:
    """What `compress` was given, which has ``decoded_bytes``: no more than that is ever allocated. `BadBatch` for what
    is damaged, not as long as that, or in an unknown codec."""
    if codec == CODEC_NONE:
        plain = body
    elif codec == CODEC_ZSTD:
        plain = _unzstd(body, decoded_bytes)
    elif codec == CODEC_LZ4:
        plain = _unlz4(body, decoded_bytes)
    else:
        raise BadBatch(f"unknown codec {codec}")
    if len(plain) != decoded_bytes:
        raise BadBatch(f"a run's body has {len(plain)} bytes, its header says {decoded_bytes}")
    return plain


def _unzstd(body: bytes, decoded_bytes: int) -> bytes:
    try:
        # The frame's own idea of its size decides what gets allocated: hold it to the size that was bounded before.
        if zstandard.frame_content_size(body) != decoded_bytes:
            raise BadBatch("a run's zstd frame and its header differ about the decoded length")
        return zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadBatch(f"a run's body does not decompress: {error}") from error


_LZ4_SHRINKS_MAX = 255
"""A block can't shrink by more: each of its bytes stands for so many at most."""


def _unlz4(body: bytes, decoded_bytes: int) -> bytes:
    # All that the header claims is allocated before the first byte is looked at: hold the claim to what is possible.
    if decoded_bytes > _LZ4_SHRINKS_MAX * len(body):
        raise BadBatch(f"a run's lz4 block of {len(body)} bytes can't have {decoded_bytes} decoded bytes")
    try:
        plain: bytes = lz4.block.decompress(body, uncompressed_size=decoded_bytes)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise BadBatch(f"a run's body does not decompress: {error}") from error
    return plain
