"""Small image files of many kinds, damage to files, and the pixels that other decoders than Pillow see in them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from . import decoders

__all__ = ["originals", "mutated", "with_right_checksums", "expected", "DECODERS"]

DECODERS = {"png": decoders.png, "pgm": decoders.pnm, "ppm": decoders.pnm, "bmp": decoders.bmp}
"""Decoders by the first three letters of the names of `originals`."""


def originals() -> dict[str, bytes]:
    """Return one small file of each kind, by name."""
    rng = np.random.default_rng(0)
    grey, colours, clear = (rng.integers(0, 256, (12, 10, *more), np.uint8) for more in ((), (3,), (4,)))
    deep = rng.integers(0, 65536, (12, 10)).astype(np.uint16)
    files = {f"png_{mode}": _encoded(clear, "PNG", mode) for mode in ("1", "L", "LA", "RGB", "RGBA")}
    files["png_palette"] = _encoded(colours, "PNG", "P", transparency=3)
    files["png_16"], files["pgm_16"] = _encoded(deep, "PNG"), _encoded(deep, "PPM")
    files["png_colour"] = _encoded(colours, "PNG", transparency=tuple(map(int, colours[0, 0])))
    files |= {"pgm": _encoded(grey, "PPM"), "ppm": _encoded(colours, "PPM"), "bmp": _encoded(colours, "BMP")}
    files |= {"bmp_8": _encoded(grey, "BMP"), "gif": _encoded(grey, "GIF"), "jpeg": _encoded(colours, "JPEG")}
    files |= {"jpeg_2": _encoded(colours, "JPEG", progressive=True), "webp": _encoded(clear, "WEBP", lossless=True)}
    files |= {f"tiff_{c}": _encoded(colours, "TIFF", compression=c) for c in ("raw", "tiff_lzw", "packbits", "jpeg")}
    files |= {
        "tiff_16": _encoded(deep, "TIFF"),
        "jp2": _encoded(colours, "JPEG2000"),
        "avif": _encoded(colours, "AVIF"),
    }
    return files


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Make one to three changes: bits, bytes, cuts, insertions, extreme numbers, blocks copied and blanked."""
    kind = rng.integers(8)
    for _ in range(rng.integers(1, 4)):
        i, j = rng.integers(len(content), size=2) if content else (0, 0)
        n, extreme = int(rng.integers(1, 17)), [b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]
        match kind:
            case 0:
                content = content[:i] + bytes([content[i] ^ (1 << n % 8)] if content else []) + content[i + 1 :]
            case 1:
                content = content[:i] + rng.bytes(1) + content[i + 1 :]
            case 2:
                content = content[:i]
            case 3:
                content = content[:i] + content[i + n :]
            case 4:
                content = content[:i] + rng.bytes(n) + content[i:]
            case 5:
                content = content[:i] + extreme[n % 4] + content[i + 4 :]
            case 6:
                content = content[:i] + content[j : j + n] + content[i + n :]
            case 7:
                content = content[:i] + bytes(n) + content[i + n :]
    return content


def with_right_checksums(content: bytes) -> bytes:
    """Return a PNG whose chunks say that they are whole: damage that only their content gives away."""
    out, at = content[:8], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out


def expected(name: str, content: bytes) -> np.ndarray | None:
    """Return RGB `[height, width, 3]` on white as another decoder sees it; `None` if there is none for this kind."""
    if name[:3] not in DECODERS:
        return None
    try:
        values, largest, alpha = DECODERS[name[:3]](content)
    except NotImplementedError:
        return None
    scaled = values >> 8 if largest == 65535 else np.round(values * (255 / largest))
    scaled = scaled[..., None].repeat(3, -1) if scaled.ndim == 2 else scaled
    share = 1 if alpha is None else alpha[..., None] / largest
    return scaled * share + 255 * (1 - share)


def _encoded(array: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()
