"""A check of PNG files to the last byte: Pillow fills missing data with black, and checks few of the checksums.

Reference:
  ISO/IEC 15948:2004, "Portable Network Graphics (PNG)", sections 5, 10 and 11.
"""

import struct
import zlib
from collections.abc import Iterator

__all__ = ["SIGNATURE", "check"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_PIECE = 2**20  # bytes unpacked at once
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced image, and the steps between them: `(x, dx, y, dy)`."""


def check(content: bytes, *, max_pixels: int) -> int | None:
    """Check the checksums, the header, and that the data fill exactly one image.

    Args:
      content: content of the file.
      max_pixels: number of pixels of the largest image that is unpacked.

    Returns:
      The number of colours in the palette; `None` if the image has none.

    Raises:
      ValueError: if a check fails; the message says which.
    """
    header, palette, packed = b"", None, []
    for name, data in _chunks(content):
        if (name == b"IHDR") == bool(header):
            raise ValueError("its chunks are in the wrong order")
        header = header or data
        if name == b"PLTE":
            palette = data
        elif name == b"IDAT":
            packed.append(data)
    if len(header) != 13:
        raise ValueError("its header is damaged")
    width, height, depth, colours, compression, filtering, interlacing = struct.unpack(">IIBBBBB", header)
    is_known = depth in _DEPTHS.get(colours, ()) and not compression and not filtering and interlacing < 2
    if not is_known or not 0 < width * height <= max_pixels:
        raise ValueError("its header is damaged, or claims too many pixels")
    num_bytes = _num_bytes(width, height, depth * _SAMPLES[colours], is_interlaced=bool(interlacing))
    if _unpacked(b"".join(packed), num_bytes) != num_bytes:
        raise ValueError("it does not hold as much image data as its header says")
    if colours == _PALETTE and not palette:
        raise ValueError("it lacks its palette")
    return len(palette) // 3 if palette is not None and colours == _PALETTE else None


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield all chunks before the end, with checked checksums."""
    at = len(SIGNATURE)
    while content[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(content):
            raise ValueError("it is cut off")
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"the checksum of its chunk {content[at + 4 : at + 8]!r} is wrong")
        yield content[at + 4 : at + 8], content[at + 8 : end]
        at = end + 4


def _num_bytes(width: int, height: int, bits: int, *, is_interlaced: bool) -> int:
    """Return the number of unpacked bytes of an image: each line of each pass has one more, which names its filter."""
    passes = _PASSES if is_interlaced else ((0, 1, 0, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, dx, y, dy in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _unpacked(packed: bytes, expected: int) -> int:
    """Return the number of bytes in a zlib stream, counted a little past `expected`; its checksum is checked.

    Raises:
      ValueError: if the stream is damaged, or does not end.
    """
    stream, count = zlib.decompressobj(), 0
    try:
        while not stream.eof and count <= expected:
            piece = stream.decompress(packed, _PIECE)
            packed = stream.unconsumed_tail
            if not piece and not packed:
                break
            count += len(piece)
    except zlib.error as error:
        raise ValueError(f"its image data are damaged: {error}") from error
    return count if stream.eof else -1
