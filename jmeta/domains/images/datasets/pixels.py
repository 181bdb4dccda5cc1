"""Reading of one image file as uint8 pixels of a given size.

| in the file                                    | becomes                                                        |
|---|---|
| 1, 2, 4 or 8 bits: grey, palette, RGB, YCbCr, CMYK | grey by ITU-R 601 luma, or RGB                              |
| grey of 9 to 16 bits (PNG, TIFF, PGM, JPEG 2000)   | its 8 highest bits: `value >> 8` of 16 bits                 |
| RGB of 16 bits                                     | the 8 highest bits of each channel                          |
| an alpha channel or a transparent colour           | composited on `background`                                  |
| an orientation (EXIF, TIFF)                        | turned as every viewer shows it                             |
| several frames or pages                            | the first one                                               |
| 32-bit integers, floating point, LAB, HSV          | refused by name: nothing says which value is white          |

Kinds of files are recognised by content, not by suffix. Files with checksums (PNG) are checked to the last byte; a
changed JPEG, BMP or PPM that still decodes cannot be distinguished from another picture.
"""

import io
import os
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jmeta.decoding import UnreadableError, decoding, read_regular, shown

from . import png

__all__ = ["SUFFIXES", "FORMATS", "MAX_PIXELS", "Fit", "Conversion", "Picture", "read_picture"]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 2**27
"""Pixels of the largest image that is read, about 11,600 x 11,600: a file of a few bytes can claim any number."""

Fit = Literal["squash", "crop", "pad"]
"""How an image of another shape is fitted to `size`: by scaling its sides differently, by cutting the longer side at
both ends, or by filling the shorter side with `background`."""

_REMEDY = "remove it, or save it again"
_EIGHT_BITS = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_WHITE_IS_ZERO, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0, 258, 262  # TIFF tags and values


class Conversion(NamedTuple):
    """The conversion of image files to arrays.

    Attributes:
      size: `(height, width)`; `None` keeps the size of images.
      num_channels: 1 for grey, 3 for RGB.
      fit: how images of another shape are fitted to `size`.
      background: grey value behind transparent and padded images, from 0 for black to 255 for white.
    """

    size: tuple[int, int] | None = None
    num_channels: int = 3
    fit: Fit = "squash"
    background: int = 255

    def check(self) -> None:
        """Raise `ValueError` at the first number that is out of range."""
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels={self.num_channels}; expected 1 (grey) or 3 (RGB)")
        if self.fit not in ("squash", "crop", "pad"):
            raise ValueError(f"fit={self.fit!r}; expected 'squash', 'crop' or 'pad'")
        if not _is_int(self.background) or not 0 <= self.background <= 255:
            raise ValueError(f"background={self.background}; expected a grey value, from 0 (black) to 255 (white)")
        if self.size is None:
            return
        sides = tuple(self.size) if isinstance(self.size, list | tuple) else ()
        if len(sides) != 2 or not all(_is_int(side) and side > 0 for side in sides) or sides[0] * sides[1] > MAX_PIXELS:
            raise ValueError(
                f"size={self.size}; expected (height, width), two positive integers with a product of at most "
                f"{MAX_PIXELS}"
            )


class Picture(NamedTuple):
    """The content of one file.

    Attributes:
      pixels: uint8 `[height, width, channels]`.
      was_reshaped: whether `fit` changed anything.
      has_more_frames: whether there were frames after the first.
      peak: the largest value, in 16 bits, of a grey image of more than 8 bits; `None` for any other.
    """

    pixels: UInt8[np.ndarray, "height width channels"]
    was_reshaped: bool
    has_more_frames: bool
    peak: int | None


def read_picture(path: str | os.PathLike, conversion: Conversion) -> Picture:
    """Read one image file.

    Args:
      path: path of the file.
      conversion: conversion to an array.

    Raises:
      FileNotFoundError: if there is no such file.
      UnreadableError: in one line with the path, if it is damaged, of a kind outside the table above, too large or not
        a regular file.
      ImportError: if Pillow is not installed.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "grey.png"
      ...     Image.new("RGBA", (4, 2)).save(path)
      ...     read_picture(path, Conversion(size=(3, 3))).pixels[0, 0].tolist()
      [255, 255, 255]
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images takes Pillow: pip install "jmeta[data]"') from error
    content = read_regular(path)
    if not content:
        raise UnreadableError(f"{shown(path)} is empty; remove it, or copy it again")
    Image.init()
    with decoding(path, "an image", _REMEDY):
        image = _opened(content, path, Image)
        num_colours = png.check(content, max_pixels=MAX_PIXELS) if image.format == "PNG" else None
        image.load()
        if num_colours is not None and image.getextrema()[1] >= num_colours:
            raise ValueError(f"it uses more than the {num_colours} colours of its palette")
        turned, peak = _turned_eight_bits(image, path)
        flat = _flattened(turned, conversion)
        fitted, was_reshaped = _fitted(flat, conversion)
        pixels = np.asarray(fitted).reshape(fitted.height, fitted.width, conversion.num_channels)
        return Picture(pixels, was_reshaped, _has_more_frames(image, content, Image), peak)


def _opened(content: bytes, path: str | os.PathLike, pillow: Any) -> Any:
    """Open the image; read its header, and check its kind and number of pixels."""
    formats = [name for name in FORMATS if name in pillow.OPEN]  # some builds of Pillow lack a few
    try:
        image = pillow.open(io.BytesIO(content), formats=formats)
    except pillow.UnidentifiedImageError as error:
        raise UnreadableError(
            f"{shown(path)} cannot be read as an image (it begins with {content[:8]!r}; known are "
            f"{', '.join(formats)}); {_REMEDY}"
        ) from error
    except pillow.DecompressionBombError:
        raise UnreadableError(f"{shown(path)} has more than {MAX_PIXELS} pixels; shrink or remove it") from None
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableError(
            f"{shown(path)} has {image.height} x {image.width} pixels (height x width), more than {MAX_PIXELS}; shrink "
            "or remove it"
        )
    known = (*_EIGHT_BITS, *_WITH_ALPHA)
    is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode not in known and not is_deep:
        named = {"I": "32-bit or signed integers", "F": "floating point"}.get(image.mode, f"mode {image.mode}")
        raise UnreadableError(
            f"{shown(path)} holds {named}, in which nothing says what is white; save it with 8 or 16 bits a channel, "
            "in grey or RGB"
        )
    return image


def _turned_eight_bits(image: Any, path: str | os.PathLike) -> tuple[Any, int | None]:
    """Rotate the image by its orientation, take deep grey by its 8 highest bits, and return the largest deep value."""
    from PIL import Image, ImageOps

    transparent = image.info.get("transparency")
    turned = ImageOps.exif_transpose(image)
    if turned.mode in (*_EIGHT_BITS, *_WITH_ALPHA):
        return turned, None
    tags = image.tag_v2 if image.format == "TIFF" else {}
    num_bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    values = np.asarray(turned).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() < 2**num_bits:
        raise UnreadableError(f"{shown(path)} says it has {num_bits} bits, but its values go to {values.max()}")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = 2**num_bits - 1 - values
    grey = Image.fromarray((values >> (num_bits - 8)).astype(np.uint8))
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey, int(values.max(initial=0)) << (16 - num_bits)


def _flattened(image: Any, conversion: Conversion) -> Any:
    """Convert the image to grey or RGB, on the background where it is transparent."""
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*[conversion.background] * 3, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert("L" if conversion.num_channels == 1 else "RGB")


def _fitted(image: Any, conversion: Conversion) -> tuple[Any, bool]:
    """Return the image at the conversion's size, and whether its shape differs, apart from rounding."""
    from PIL import Image

    if conversion.size is None or image.size == conversion.size[::-1]:
        return image, False
    height, width = conversion.size
    scale = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if inner == (width, height) or conversion.fit == "squash":
        return image.resize((width, height), Image.Resampling.LANCZOS), inner != (width, height)
    if conversion.fit == "crop":
        larger = max(width / image.width, height / image.height)
        left, top = (image.width - width / larger) / 2, (image.height - height / larger) / 2
        box = max(0.0, left), max(0.0, top), min(image.width, image.width - left), min(image.height, image.height - top)
        return image.resize((width, height), Image.Resampling.LANCZOS, box=box), True
    ground = conversion.background if conversion.num_channels == 1 else (conversion.background,) * 3
    padded = Image.new(image.mode, (width, height), ground)
    small = image.resize(inner, Image.Resampling.LANCZOS)
    padded.paste(small, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return padded, True


def _has_more_frames(image: Any, content: bytes, pillow: Any) -> bool:
    """Return whether a file has other frames; a JPEG's second picture (MPO) is a preview or a map of its brightness."""
    if image.format in ("GIF", "TIFF"):  # these seek frames, so an image that is being read would move on
        image = pillow.open(io.BytesIO(content), formats=[image.format])
    return image.format != "MPO" and getattr(image, "is_animated", False)


def _is_int(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
