"""How do encoded bytes become an image of the wanted size?

JPEG, PNG and WEBP, whatever they hold (grey, palette, 16 bits, CMYK, alpha, several frames), become RGB with 8 bits,
upright, the first frame. The header is checked before anything is decoded. Colour profiles are not applied.

Pillow reads the header and decodes, but for a JPEG that simplejpeg finds no fault with: the same pixels of the same
libjpeg, in two thirds of the time. What it finds fault with Pillow decides on, since cameras write odd files. OpenCV
takes damaged files for good ones: of 300 JPEGs with random bytes in place of 4 KiB all, Pillow 18, simplejpeg none.
"""

import io
import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from input_pipeline.transforms import BadRecord

# Decoding takes up to 12 bytes a pixel of a JPEG, 8 of a PNG, 16 of a WEBP: 300 MB at most.
MAX_PIXELS = 24_500_000  # a camera's 6048 × 4024 are fewer
MAX_WEBP_PIXELS = 1 << 24
# A JPEG may repeat a scan of 30 bytes, each as slow as a decoding; a PNG may have parts of 12 bytes, 2 µs each.
MAX_SCANS, MAX_PARTS = 64, 1 << 14
WITHOUT_LENGTH = {bytes([kind]) for kind in (0x00, 0x01, *range(0xD0, 0xDA), 0xFF)}  # after an FF in a JPEG
SCAN = re.compile(b"\xff\xda")  # begins one; to look for it takes a third of the time of `bytes.count`
BASELINE = (b"\xff\xc0", b"\xff\xc1")  # begin the frame of a JPEG that is not progressive
STRIP = 1 << 20  # pixels that are converted at once
# Shrinking by less than this is linear, in a sixth of the time. By 1.43 it is 5.2 and 1.6 levels (RMS) off Lanczos on
# scikit-learn's two photographs, the mean of areas 4.4 and 1.7, Pillow's antialiased bilinear filter 5.5 and 2.0; by
# 1.6 it would be 6.1 off the first, against 4.0 and 5.1.
SLIGHT = 1.5
FORMATS = ("JPEG", "PNG", "WEBP")
ORIENTATION = 0x0112  # the EXIF tag
JPEG, EXIF = b"\xff\xd8\xff", b"\xe1"  # how a JPEG begins, and its part that has EXIF data
PNG = b"\x89PNG"

# How an image is brought upright, by its EXIF orientation; 1 is upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
SIDEWAYS = (5, 6, 7, 8)


def decode_image(
    data: bytes, *, at_least: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to upright RGB; what is transparent becomes white.

    Args:
      data: the file.
      at_least: the height and width that are needed of it. A JPEG that has 2, 4 or 8 times as much along both axes
        comes out so much smaller, in half the time. None: all of it is needed.
      max_pixels: the most that the header may claim.

    Raises:
      BadRecord: a reason of `open_image`, or "damaged image".
    """
    _check_parts(data)
    pixels = _plain_jpeg(data, at_least, max_pixels)
    return _any_image(data, at_least, max_pixels) if pixels is None else pixels


def resize_image(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Resizes without keeping the aspect.

    Axes that shrink are antialiased, those that grow are cubic; where both shrink, and by less than `SLIGHT`, linear.
    """
    h, w, _ = image.shape
    if 1 <= h / height < SLIGHT and 1 <= w / width < SLIGHT:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    # OpenCV's area filter averages only if no axis grows.
    image = cv2.resize(image, (min(w, width), min(h, height)), interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads the header of an image.

    Raises:
      BadRecord: "not JPEG, PNG or WEBP", "too many pixels", "too many scans or parts", "damaged image".
    """
    _check_parts(data)
    return _open(data, max_pixels)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRecord("too many pixels") from None
    except Image.UnidentifiedImageError:
        known = data.startswith((JPEG, PNG)) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
        raise BadRecord("damaged image" if known else "not JPEG, PNG or WEBP") from None
    except Exception:  # see decode_image
        raise BadRecord("damaged image") from None
    if image.width * image.height > (min(max_pixels, MAX_WEBP_PIXELS) if image.format == "WEBP" else max_pixels):
        raise BadRecord("too many pixels")
    return image


def _plain_jpeg(data: bytes, at_least: tuple[int, int] | None, max_pixels: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decodes a JPEG with neither EXIF data nor any fault; None of another file.

    It needs no Pillow, which opens a file in a twentieth of the time that decoding it takes.
    """
    if not data.startswith(JPEG) or any(data[place + 1 : place + 2] == EXIF for place in _jpeg_parts(data)):
        return None
    try:
        *size, colours, _ = simplejpeg.decode_jpeg_header(data)
    except Exception:  # whatever it may be, Pillow decides
        return None
    height, width = map(int, size)
    if height * width > max_pixels:
        raise BadRecord("too many pixels")
    if colours not in ("RGB", "YCbCr", "Gray"):
        return None
    needed = at_least or (height, width)
    by = next((by for by in (8, 4, 2) if height >= by * needed[0] and width >= by * needed[1]), 1)
    return _sound_jpeg(data, -(-height // by), -(-width // by))


def _any_image(data: bytes, at_least: tuple[int, int] | None, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    image = _open(data, max_pixels)
    if image.format == "PNG":
        _check_sums(data)
    try:
        orientation, pixels = _orientation(image), None
        if at_least:
            image.draft(None, at_least if orientation in SIDEWAYS else at_least[::-1])
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            pixels = _sound_jpeg(data, image.height, image.width)
        if pixels is None:
            pixels = _to_rgb(image)
    # Damaged files make Pillow raise nearly anything: OSError, SyntaxError, ValueError, EOFError, struct.error, …
    except Exception:
        raise BadRecord("damaged image") from None
    return np.ascontiguousarray(UPRIGHT.get(orientation, np.asarray)(pixels))


def _sound_jpeg(data: bytes, height: int, width: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decodes a JPEG to this size or the next larger one that can be had; None of one with any fault."""
    with suppress(Exception):  # whatever it may be, Pillow decides
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)


def _check_parts(data: bytes) -> None:
    """Refuses a file that would keep the decoder busy with parts and not with pixels."""
    if data.startswith(PNG):
        many = len([*itertools.islice(_png_parts(data), MAX_PARTS + 1)]) > MAX_PARTS
    else:
        many = data.startswith(b"\xff\xd8") and _many_jpeg_parts(data)
    if many:
        raise BadRecord("too many scans or parts")


def _many_jpeg_parts(data: bytes) -> bool:
    places = [*itertools.islice(_jpeg_parts(data), MAX_PARTS + 1)]
    if len(places) > MAX_PARTS:
        return True
    # A frame and a scan say how many colours they hold. Once a baseline scan held all, libjpeg takes no other.
    frame = next((place for place in places if data[place : place + 2] in BASELINE), None)
    if frame is not None and data[frame + 9 : frame + 10] == data[places[-1] + 4 : places[-1] + 5]:
        return False
    return any(itertools.islice(SCAN.finditer(data), MAX_SCANS, None))


def _png_parts(data: bytes) -> Iterator[int]:
    """Where the parts of a PNG begin: a length, four letters, so many bytes, and four of a checksum."""
    place = 8
    while place < len(data):
        yield place
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def _check_sums(data: bytes) -> None:
    """Compares the checksums of a PNG's pixels, palette and header, which Pillow does not all do: bits that turned."""
    for place in _png_parts(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        needed = data[place + 4 : place + 5].isupper()
        if needed and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadRecord("damaged image")
        if data[place + 4 : place + 8] == b"IEND":
            return


def _jpeg_parts(data: bytes) -> Iterator[int]:
    """Where the parts up to the first scan begin: FF, a kind, and a length. Bytes between them count as parts."""
    place = 2
    while place < len(data):
        yield place
        if data[place : place + 2] == b"\xff\xda":
            return
        part = data[place] == 0xFF and data[place + 1 : place + 2] not in WITHOUT_LENGTH
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big") if part else 1


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1  # damaged EXIF data say nothing of the pixels


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    image.load()
    rows = max(1, STRIP // image.width)
    if image.height <= rows:
        return _strip_to_rgb(image)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb[top : top + rows] = _strip_to_rgb(strip)
    return rgb


def _strip_to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow's own conversion clips them
        grey = np.right_shift(np.asarray(image), 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # converting copies in any case
