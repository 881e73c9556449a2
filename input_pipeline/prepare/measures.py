"""What can be told of one encoded signal or text for little work?

Sizes and lengths come from headers; hashes find what occurs twice. Whether a signal can be decoded is the business of
`verify`: here a damaged one may pass.
"""

import hashlib

import numpy as np
from PIL import Image

from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.image import ORIENTATION, decode_image, open_image

LYING = (5, 6, 7, 8)  # EXIF orientations whose height is the stored width
HASH_SIDE = 8


def hash64(data: bytes) -> int:
    """A hash of 64 bits: among a million items two that differ share one with probability 3e-8."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def image_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) in pixels of the upright image, from its header.

    Raises:
      BadRecord: "not JPEG, PNG or WEBP", "too many pixels" or "damaged image".
    """
    image = open_image(data)
    try:
        lying = image.getexif().get(ORIENTATION) in LYING
    except Exception:  # damaged EXIF data: an image without them, as `decode_image` has it
        lying = False
    return (image.width, image.height) if lying else (image.height, image.width)


def difference_hash(data: bytes) -> int:
    """Which of 8 × 9 grey pixels are brighter than their right neighbours, as 64 bits.

    Images of one content in several sizes and qualities mostly have one hash; so may different ones with few edges.
    A JPEG is decoded at an eighth of its size where that is enough, and not brought upright.
    Reference: Krawetz 2013, "Kind of Like That", the Hacker Factor blog.

    Raises:
      BadRecord: "not JPEG, PNG or WEBP", "too many pixels" or "damaged image".
    """
    image = open_image(data)
    size = (HASH_SIDE + 1, HASH_SIDE)
    try:
        if image.format == "JPEG":
            image.draft("L", (4 * size[0], 4 * size[1]))
        else:
            image = Image.fromarray(decode_image(data))
        grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX))
    except Exception:  # as in `decode_image`: damaged files make Pillow raise nearly anything
        raise BadRecord("damaged image") from None
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes())
