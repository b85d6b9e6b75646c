"""The idx format: what is read, and everything that is refused."""

import gzip
import struct

import numpy as np
import pytest

from nestax_studies.data._idx import decompress, limit, parse, size

IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
CONTENT = b"\x00\x00\x08\x03" + struct.pack(">III", 4, 3, 2) + IMAGES.tobytes()
ARCHIVE = gzip.compress(CONTENT, mtime=0)  # no clock: test processes must see the same bytes


def test_reads_what_was_written():
    content = decompress(ARCHIVE, limit((4, 3, 2)))
    array = parse(content, (4, 3, 2))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, IMAGES)
    assert not array.flags.writeable


def test_size_counts_header_and_elements():
    assert size((4, 3, 2)) == len(CONTENT)
    assert size((7,)) == 4 + 4 + 7
    assert limit((7,)) == 4 + 4 * 255  # the longest header
    assert limit((1000, 28)) == size((1000, 28)) + 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "expected a gzip file, found one that begins with b'hello, t'"),
        (CONTENT, "expected a gzip file"),
        (b"\x1f", "breaks off after 1 bytes"),
        (ARCHIVE[:-1], "breaks off"),
        (ARCHIVE[:20], "breaks off"),
        (ARCHIVE + b"\x00", "1 more bytes after it"),
        (ARCHIVE * 2, "more bytes after it"),
        (ARCHIVE[:-8] + bytes(8), "damaged"),  # checksum and length at the end
        (b"\x1f\x8b" + bytes(40), "damaged"),
    ],
    ids=[
        "empty",
        "text",
        "not compressed",
        "one byte",
        "last byte missing",
        "cut in the middle",
        "a byte behind it",
        "a second stream behind it",
        "wrong checksum",
        "zeros",
    ],
)
def test_refuses_what_is_not_one_sound_gzip_stream(data, message):
    with pytest.raises(ValueError, match=message):
        decompress(data, limit=len(CONTENT) + 1)


def test_every_truncation_is_refused():
    data = ARCHIVE
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"empty|breaks off"):
            decompress(data[:length], limit=len(CONTENT) + 1)


def test_never_decompresses_more_than_the_limit():
    bomb = gzip.compress(bytes(10_000_000))
    assert len(decompress(bomb, limit=100)) == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an idx file"),
        (b"\x00\x00\x08", "expected an idx file"),
        (b"\x01" + CONTENT[1:], "expected an idx file"),
        (b"plain text", "expected an idx file"),
        (b"\x00\x00\x0d" + CONTENT[3:], "found type 0x0d"),
        (b"\x00\x00\x08\x03" + bytes(5), "expected a header of 16 bytes for 3 axes, found 9"),
        (b"\x00\x00\x08\x01" + struct.pack(">I", 24) + bytes(24), r"found shape \(24,\)"),
        (CONTENT[:4] + struct.pack(">III", 4, 2, 3) + CONTENT[16:], r"found shape \(4, 2, 3\)"),
        (CONTENT[:4] + b"\xff" * 12 + CONTENT[16:], r"found shape \(4294967295, 4294967295"),
        (CONTENT[:-1], "expected 24 bytes of elements .* found 23"),
        (CONTENT[:16], "found 0"),
        (CONTENT + b"\x00", "found 25"),
    ],
)
def test_refuses_what_is_not_exactly_the_array(content, message):
    with pytest.raises(ValueError, match=message):
        parse(content, (4, 3, 2))
