"""The idx format, gzipped: bytes in, one checked array out.

An idx file is two zero bytes, one byte for the element type, one for the number of axes, the
length of each axis as a big-endian 32-bit integer, and the elements in row-major order (LeCun,
Cortes and Burges, The MNIST database). Only unsigned bytes (type 0x08) are read here.

Nothing is trusted: no more is ever decompressed than it takes to tell, and an array is made
only from a container, a header and a length that are all exactly right. The functions raise
`ValueError`; who calls them knows the file and says so.
"""

import math
import zlib

import numpy as np

_UNSIGNED_BYTE = 0x08
_LONGEST_HEADER = 4 + 4 * 255


def decompress(data: bytes, limit: int) -> bytes:
    """Decompresses one whole gzip stream, its checksum included.

    Args:
        data: The gzip file.
        limit: Largest number of bytes to decompress.

    Returns:
        The content; cut after `limit` bytes if there is more of it.

    Raises:
        ValueError: If it is empty, not gzip, damaged, truncated, or followed by other bytes.
    """
    if not data:
        raise ValueError("expected a gzip file, found an empty file")
    if not b"\x1f\x8b".startswith(data[:2]):
        raise ValueError(f"expected a gzip file, found one that begins with {data[:8]!r}")
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: gzip container, CRC checked
    try:
        content = stream.decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"expected a sound gzip file, found a damaged one ({error})") from error
    if not stream.eof and len(content) < limit:
        raise ValueError(
            f"expected a complete gzip file, found one that breaks off after {len(data)} bytes"
        )
    if stream.unused_data:
        raise ValueError(
            f"expected one gzip stream, found {len(stream.unused_data)} more bytes after it"
        )
    return content


def size(shape: tuple[int, ...]) -> int:
    """Number of bytes of an idx file of unsigned bytes: header and elements."""
    return 4 + 4 * len(shape) + math.prod(shape)


def limit(shape: tuple[int, ...]) -> int:
    """How much to decompress to tell right from wrong: one byte too many, and any header."""
    return max(size(shape) + 1, _LONGEST_HEADER)


def parse(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Reads an idx file of unsigned bytes.

    Args:
        content: The decompressed file.
        shape: The shape that it must have.

    Returns:
        uint8 array of that shape, read-only.

    Raises:
        ValueError: If the magic number, the element type, the shape or the length is not right.
    """
    if len(content) < 4 or content[:2] != b"\x00\x00":
        raise ValueError(f"expected an idx file, found content that begins with {content[:8]!r}")
    kind, axes = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(
            f"expected elements of type 0x{_UNSIGNED_BYTE:02x} (unsigned byte), "
            f"found type 0x{kind:02x}"
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(
            f"expected a header of {start} bytes for {axes} axes, found {len(content)} bytes"
        )
    found = tuple(np.frombuffer(content, ">u4", axes, offset=4).tolist())
    if found != shape:
        raise ValueError(f"expected an array of shape {shape}, found shape {found}")
    if len(content) != size(shape):
        more = "or more " if len(content) > size(shape) else ""
        raise ValueError(
            f"expected {size(shape) - start} bytes of elements for shape {shape}, "
            f"found {len(content) - start} {more}".rstrip()
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
