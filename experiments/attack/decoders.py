"""Decoders of PNG, PGM, PPM and BMP that share nothing with Pillow: zlib and the formats' own definitions.

They are strict: what is damaged or missing raises an error; what they do not know, such as interlaced PNG, raises
`NotImplementedError`. Each returns `(values, largest, alpha)`: grey `[h, w]` or RGB `[h, w, 3]` in 0..largest, and an
alpha of the same scale, or `None`.
"""

import struct
import zlib

import numpy as np


def png(content):
    chunks = list(_chunks(content))
    names = [name for name, _ in chunks]
    if names[0] != b"IHDR" or names[-1] != b"IEND" or names.count(b"IHDR") > 1:
        raise ValueError("chunks in the wrong order")
    width, height, depth, kind, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    allowed = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    if depth not in allowed.get(kind, ()) or compression or filtering or interlace > 1 or not width * height:
        raise ValueError("header")
    if interlace:
        raise NotImplementedError("interlaced")
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(b"".join(data for name, data in chunks if name == b"IDAT"))
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    line = (width * samples * depth + 7) // 8
    if not unpacker.eof or len(data) != height * (line + 1):
        raise ValueError("image data")
    rows = _unfiltered(np.frombuffer(data, np.uint8).reshape(height, line + 1), max(1, samples * depth // 8))
    values = _samples(rows, depth)[:, : width * samples].reshape(height, width, samples)
    extra = {name: data for name, data in chunks if name in (b"PLTE", b"tRNS")}
    return _colours(values, kind, depth, extra)


def _chunks(content):
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("signature")
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", content[at : at + 8]) if at + 8 <= len(content) else (0, None)
        data, crc = content[at + 8 : at + 8 + length], content[at + 8 + length : at + 12 + length]
        if name == b"IEND":  # there is nothing after its name that matters
            data = b""
        elif name is None or len(crc) != 4 or zlib.crc32(name + data) != int.from_bytes(crc, "big"):
            raise ValueError("chunk")
        yield name, data
        at += 12 + length


def _unfiltered(rows, step):
    above = np.zeros(rows.shape[1] - 1, np.int64)
    out = []
    for kind, *line in rows.tolist():
        if kind > 4:
            raise ValueError("filter")
        for i, value in enumerate(line):
            left = line[i - step] if i >= step else 0
            up, corner = int(above[i]), int(above[i - step]) if i >= step else 0
            near = min((left, up, corner), key=lambda p: abs(left + up - corner - p))
            line[i] = (value + (0, left, up, (left + up) // 2, near)[kind]) % 256
        above = np.array(line)
        out.append(above)
    return np.array(out, np.uint8)


def _samples(rows, depth):
    if depth == 16:
        return rows[:, ::2].astype(np.int64) * 256 + rows[:, 1::2]
    bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, depth)
    return bits.astype(np.int64) @ (1 << np.arange(depth)[::-1])


def _colours(values, kind, depth, extra):
    most, transparent = 2**depth - 1, extra.get(b"tRNS")
    if kind == 3:
        if len(extra.get(b"PLTE", b"")) % 3 or not extra.get(b"PLTE"):
            raise ValueError("palette")
        palette = np.frombuffer(extra[b"PLTE"], np.uint8).reshape(-1, 3).astype(np.int64)
        if values.max() >= len(palette):
            raise ValueError("palette")
        alphas = np.full(256, 255)
        alphas[: len(transparent or b"")] = list(transparent or b"")
        return palette[values[..., 0]], 255, alphas[values[..., 0]] if transparent is not None else None
    if kind in (4, 6):
        return values[..., 0] if kind == 4 else values[..., :3], most, values[..., -1]
    alpha = None
    if transparent is not None:
        key = np.frombuffer(transparent, ">u2").astype(np.int64)
        alpha = np.where((values == key).all(-1), 0, most)
    return values[..., 0] if kind == 0 else values, most, alpha


def pnm(content):
    """A binary PGM or PPM without comments."""
    fields = content.split(maxsplit=3)
    if content[:2] not in (b"P5", b"P6") or b"#" in content[:20] or len(fields) < 4:
        raise NotImplementedError("another kind")
    width, height = int(fields[1]), int(fields[2])
    most, data = fields[3][:1], fields[3][1:]
    while data[:1].isdigit():
        most, data = most + data[:1], data[1:]
    most, data = int(most), data[1:]
    samples = 1 if content[:2] == b"P5" else 3
    dtype = np.dtype(np.uint8 if most < 256 else ">u2")
    count = width * height * samples
    if len(data) < count * dtype.itemsize:
        raise ValueError("cut off")
    values = np.frombuffer(data, dtype, count).astype(np.int64)
    if values.max() > most:
        raise NotImplementedError("values above the largest")
    return values.reshape((height, width) if samples == 1 else (height, width, 3)), most, None


def bmp(content):
    """An uncompressed BMP of 8 bits with a palette, or of 24 bits."""
    offset, header, width, height, planes, depth, compression = struct.unpack("<I I i i H H I", content[10:34])
    if content[:2] != b"BM" or header != 40 or planes != 1 or depth not in (8, 24) or compression or offset < 54:
        raise NotImplementedError("another kind")
    line = (width * depth // 8 + 3) // 4 * 4
    if width < 1 or not height or len(content) < offset + line * (abs(height) - 1) + width * depth // 8:
        raise ValueError("cut off")
    data = content[offset : offset + line * abs(height)].ljust(line * abs(height), b"\0")
    rows = np.frombuffer(data, np.uint8).reshape(abs(height), line)[:: 1 if height < 0 else -1, : width * depth // 8]
    if depth == 24:
        return rows.reshape(abs(height), width, 3)[..., ::-1].astype(np.int64), 255, None
    num_colours = struct.unpack("<I", content[46:50])[0] or 256
    palette = np.frombuffer(content[54 : min(offset, 54 + 4 * num_colours)], np.uint8)
    if not 0 < num_colours <= 256 or len(palette) != 4 * num_colours or rows.max() >= num_colours:
        raise NotImplementedError("an odd palette")
    return palette.reshape(-1, 4)[rows][..., 2::-1].astype(np.int64), 255, None
