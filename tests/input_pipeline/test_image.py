"""Do all kinds of image files become the same upright RGB, and do bad ones become reasons?"""

import io
import struct
import time
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from input_pipeline.fits import ImageFit
from input_pipeline.transforms import BadRecord, image
from input_pipeline.transforms.image import ORIENTATION, decode_image, resize_image
from input_pipeline.transforms.resizing import GridResizing, Resizing


def gradient(height=17, width=23):
    """Smooth, so that JPEG keeps it, and without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([11 * x, 13 * y, 5 * x + 3 * y], axis=-1).clip(0, 255).astype(np.uint8)


def encode(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, image_format, **options)
    return buffer.getvalue()


def reason_of(data, **options):
    with pytest.raises(BadRecord) as bad:
        decode_image(data, **options)
    return bad.value.reason


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 12),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
    ],
)
def test_formats(image_format, options, tolerance):
    decoded = decode_image(encode(gradient(), image_format, **options))
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    np.testing.assert_allclose(decoded.astype(int), gradient(), atol=tolerance)


def test_grey_palette_and_bits():
    grey = gradient()[..., 0]
    three = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(decode_image(encode(grey)), three)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(three).quantize(256))), three)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(grey > 99))), np.uint8(255) * (three > 99))


def test_sixteen_bits_keep_the_high_byte():
    deep = gradient().astype(np.uint16) * 256 + 77
    for array in (deep, deep[..., 0]):
        _, data = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)
        expected = gradient() if array.ndim == 3 else gradient()[..., :1].repeat(3, -1)
        np.testing.assert_array_equal(decode_image(data.tobytes()), expected)


def test_cmyk():
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 255, 51  # cyan, a fifth of black: (0, 204, 204)
    decoded = decode_image(encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100))
    np.testing.assert_allclose(decoded.astype(int), np.broadcast_to([0, 204, 204], (8, 8, 3)), atol=3)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_alpha_lies_over_white(image_format):
    alpha = np.tile(np.array([0, 51, 255], np.uint8), (5, 1))
    image = np.dstack([np.full((5, 3, 3), 100, np.uint8), alpha])
    expected = np.round(255 - alpha / 255 * 155)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    decoded = decode_image(encode(image, image_format, **options))
    np.testing.assert_allclose(decoded.astype(int), expected[..., None].repeat(3, -1), atol=1)


def test_a_transparent_palette_entry_is_white():
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    decoded = decode_image(encode(image, transparency=1))
    np.testing.assert_array_equal(decoded[0], [[10, 20, 30], [255, 255, 255]])


# EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored image are to be seen.
STORED = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: np.rot90(image.transpose(1, 0, 2), 2),
    8: lambda image: np.rot90(image, -1),
    9: lambda image: image,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation, image_format):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"subsampling": 0} if image_format == "JPEG" else {"lossless": True}
    stored = np.ascontiguousarray(STORED[orientation](gradient()))
    decoded = decode_image(encode(stored, image_format, exif=exif, quality=95, **options))
    np.testing.assert_allclose(decoded.astype(int), gradient(), atol=6)


def test_orientation_is_found_wherever_a_header_may_have_it():
    """In EXIF data or in XMP, behind a part in which a scan seems to begin."""
    data, upright = encode(gradient(), "JPEG"), decode_image(encode(gradient(), "JPEG"))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    for content in (b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0"), xmp):
        parts = b"".join(
            kind + struct.pack(">H", 2 + len(inside)) + inside
            for kind, inside in ((b"\xff\xec", b"\xff\xda\0\0"), (b"\xff\xe1", content))
        )
        np.testing.assert_array_equal(decode_image(data[:2] + parts + data[2:]), np.rot90(upright, -1))


def test_a_plain_jpeg_is_decoded_without_pillow(monkeypatch):
    monkeypatch.setattr(image, "_open", None)
    assert decode_image(encode(gradient(), "JPEG")).shape == (17, 23, 3)
    assert decode_image(encode(gradient()[..., 0], "JPEG")).shape == (17, 23, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's word on it
def test_damaged_exif_and_profiles_do_not_matter():
    for options in ({"exif": b"Exif\0\0II*\0\xff\xff\xff\x7f"}, {"exif": b"Exif\0\0??"}, {"icc_profile": b"none"}):
        assert decode_image(encode(gradient(), "JPEG", **options)).shape == (17, 23, 3)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode_image(encode(gradient(), icc_profile=profile)).shape == (17, 23, 3)


@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize(
    ("at_least", "factor"),
    [((60, 80), 8), ((61, 80), 4), ((60, 81), 4), ((120, 160), 4), ((224, 224), 2), ((240, 321), 1), ((999, 999), 1)],
)
def test_a_jpeg_is_no_smaller_than_what_is_needed(at_least, factor, orientation):
    """Halving a block of 8 × 8 in its frequencies is nearly the mean of each 2 × 2 pixels: of smooth images exactly."""
    y, x = np.mgrid[:480, :640]
    image = np.stack([x // 3, y // 2, (x + y) // 5], axis=-1).astype(np.uint8)
    mean = image.reshape(480 // factor, factor, 640 // factor, factor, 3).mean(axis=(1, 3))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation or 1](image))
    data = encode(stored, "JPEG", quality=97, subsampling=0, exif=exif if orientation else b"")
    decoded = decode_image(data, at_least=at_least)
    np.testing.assert_allclose(decoded.astype(float), mean, atol=5)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(97, 131), (1, 1), (16, 9)])
def test_sound_jpegs_are_what_pillow_makes_of_them(height, width, subsampling, progressive):
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8), (width, height))
    for array, options in ((noise, {"subsampling": subsampling}), (noise[..., 0], {})):
        data = encode(array, "JPEG", progressive=progressive, **options)
        for at_least in (None, (1, 1), (height // 4 + 1, width // 4 + 1), (-(-height // 2), -(-width // 2))):
            expected = Image.open(io.BytesIO(data))
            if at_least:
                expected.draft(None, at_least[::-1])
            np.testing.assert_array_equal(decode_image(data, at_least=at_least), np.asarray(expected.convert("RGB")))


def test_a_jpeg_with_a_harmless_fault_is_decoded():
    """Bytes of no meaning before the end marker: libjpeg warns, and has all pixels."""
    data = encode(gradient(), "JPEG", quality=95, subsampling=0)
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(data[:-2] + b"\0\0\0" + data[-2:], "RGB")
    np.testing.assert_array_equal(decode_image(data[:-2] + b"\0\0\0" + data[-2:]), decode_image(data))


def test_a_row_of_a_batch_has_all_detail_that_it_can_hold():
    """Stripes of 4 pixels, where half the height and a quarter of the width are wanted: they must not be averaged."""
    stripes = np.tile(np.arange(480)[:, None, None] // 4 % 2 * 200, (1, 640, 3)).astype(np.uint8)
    fitted = ImageFit({})(encode(stripes, "JPEG", quality=97), (240, 160), np.random.default_rng(0)).values
    expected = np.tile(np.arange(240)[:, None, None] // 2 % 2 * 200, (1, 160, 3))
    np.testing.assert_allclose(fitted.astype(int), expected, atol=12)


@pytest.mark.parametrize(
    ("image_format", "mode"),
    [("PNG", "RGB"), ("PNG", "L"), ("WEBP", "RGB"), ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")],
)
def test_what_is_needed_is_there_in_any_format(image_format, mode):
    image = Image.fromarray(gradient(170, 230)).convert(mode)
    data = encode(image, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    decoded = decode_image(data, at_least=(83, 113))
    assert decoded.shape == ((85, 115, 3) if image_format == "JPEG" else (170, 230, 3))
    np.testing.assert_allclose(
        resize_image(decoded, 17, 23).astype(int), resize_image(decode_image(data), 17, 23).astype(int), atol=4
    )


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(image_format):
    assert reason_of(encode(Image.fromarray(gradient()), image_format)) == "not JPEG, PNG or WEBP"


@pytest.mark.parametrize("data", [b"", b"hello", b"%!PS-Adobe", b"<svg/>", b"\xff"])
def test_no_image(data):
    assert reason_of(data) == "not JPEG, PNG or WEBP"


def test_pixels_are_capped_by_the_header_alone():
    assert decode_image(encode(gradient()), max_pixels=17 * 23).shape == (17, 23, 3)
    assert reason_of(encode(gradient()), max_pixels=17 * 23 - 1) == "too many pixels"
    for side in (10_000, 50_000):  # below and beyond what Pillow itself calls a bomb; no data follow the header
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        assert reason_of(png + struct.pack(">I", 5) + b"IDAT12345") == "too many pixels"


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"])
def test_pixels_of_a_jpeg_are_capped_by_the_header_alone(exif):
    data = encode(gradient(), "JPEG", exif=exif)
    assert decode_image(data, max_pixels=17 * 23).shape == (17, 23, 3)
    assert reason_of(data, max_pixels=17 * 23 - 1) == "too many pixels"
    frame = data.index(b"\xff\xc0") + 5
    for height, width in ((5_000, 5_000), (65_000, 65_000)):
        assert reason_of(data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]) == "too many pixels"


def test_webp_has_a_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(image, "MAX_WEBP_PIXELS", 17 * 23 - 1)
    assert reason_of(encode(gradient(), "WEBP")) == "too many pixels"
    assert decode_image(encode(gradient())).shape == (17, 23, 3)


def test_every_bit_of_a_png_counts():
    data = encode(gradient())
    begin, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 4
    for place in range(begin, end, 7):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert reason_of(damaged) == "damaged image", place
    text = (
        data.index(b"IEND") - 4
    )  # beside the pixels a checksum may be wrong, and behind the end there may be anything
    assert decode_image(data[:text] + b"\0\0\0\1tEXt?oops" + data[text:] + b"more").shape == (17, 23, 3)


def test_parts_without_number_are_refused():
    png, jpeg = encode(gradient()), encode(gradient(), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    for data in (
        png[:33] + b"\0\0\0\0abCd\x9e\xcb\xf4\x12" * image.MAX_PARTS + png[33:],
        jpeg[:2] + b"\xff\xfe\0\2" * image.MAX_PARTS + jpeg[2:],
        jpeg[:2] + b"\xff" * image.MAX_PARTS + jpeg[2:],
        jpeg[:2] + b"\xff\xd0" * image.MAX_PARTS + jpeg[2:],
        jpeg[:-2] + scan * image.MAX_SCANS + jpeg[-2:],
    ):
        assert reason_of(data) == "too many scans or parts"
    assert decode_image(jpeg[:2] + b"\xff\xfe\0\2" * 1000 + jpeg[2:-2] + scan * 20 + jpeg[-2:]).shape == (17, 23, 3)
    most = image.MAX_SCANS - jpeg.count(b"\xff\xda")
    assert decode_image(jpeg[:-2] + scan * most + jpeg[-2:]).shape == (17, 23, 3)
    assert reason_of(jpeg[:-2] + scan * (most + 1) + jpeg[-2:]) == "too many scans or parts"


def test_a_scan_for_each_colour_may_not_be_repeated_without_number():
    """A baseline file made by hand, of the planes of three grey ones: libjpeg would decode all of its scans."""
    planes = [encode(gradient()[..., colour], "JPEG", quality=95) for colour in range(3)]
    frame, scan = planes[0].index(b"\xff\xc0"), planes[0].index(b"\xff\xda")
    colours = struct.pack(">HBHHB", 17, 8, 17, 23, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    head = planes[0][:frame] + b"\xff\xc0" + colours + planes[0][frame + 13 : scan]
    scans = [b"\xff\xda\0\x08\1%c\0\0\x3f\0" % (1 + i) + plane[scan + 10 : -2] for i, plane in enumerate(planes)]
    expected = Image.merge("YCbCr", [Image.open(io.BytesIO(plane)) for plane in planes]).convert("RGB")
    decoded = decode_image(head + b"".join(scans) + b"\xff\xd9")
    np.testing.assert_allclose(decoded.astype(int), np.asarray(expected).astype(int), atol=2)
    many = b"".join(scans) + scans[2] * (image.MAX_SCANS - 2)
    assert reason_of(head + many + b"\xff\xd9") == "too many scans or parts"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_scans_behind_one_that_holds_all_are_not_decoded(mode):
    """They are as many as would take minutes."""
    data = encode(Image.fromarray(gradient(999, 999)).convert(mode), "JPEG")
    scan = data[data.rindex(b"\xff\xda") : -2]
    begin = time.process_time()
    with suppress(BadRecord):
        np.testing.assert_array_equal(decode_image(data[:-2] + 1000 * scan + data[-2:]), decode_image(data))
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
def test_strips_are_put_together_as_they_were(mode, monkeypatch):
    picture = Image.fromarray(gradient(29, 3))
    if mode == "P":
        picture = picture.quantize(200)
    elif mode == "I;16":
        picture = Image.fromarray(gradient(29, 3)[..., 0].astype(np.uint16) * 256)
    else:
        picture = picture.convert(mode)
    data = encode(picture, transparency=3) if mode == "P" else encode(picture)
    whole = decode_image(data)
    monkeypatch.setattr(image, "STRIP", 7 * 3 + 2)  # seven rows of three pixels
    np.testing.assert_array_equal(decode_image(data), whole)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_cut_image_is_damaged(image_format):
    data = encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), image_format)
    for cut in (len(data) // 4, len(data) // 2, len(data) - 40):
        for at_least in (None, (20, 20), (5, 5)):
            assert reason_of(data[:cut], at_least=at_least) == "damaged image"


def test_jpegs_are_refused_wherever_they_are_cut_and_where_other_bytes_stand():
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (320, 240)) for _ in range(10)]
    whole = [encode(image, "JPEG", quality=90, progressive=number % 2) for number, image in enumerate(images)]
    for number in range(150):
        data = whole[number % 10]
        cut = int(rng.integers(300, len(data) - 2))
        assert reason_of(data[:cut], at_least=(120, 160)) == "damaged image"
    refused = 0
    for data in whole[::2] * 10:
        start = int(rng.integers(700, len(data) - 4096))
        try:
            decode_image(data[:start] + rng.bytes(4096) + data[start + 4096 :], at_least=(120, 160))
        except BadRecord:
            refused += 1
    assert refused >= 40  # of 50; the rest has no byte that could not be there


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_gives_an_image_or_a_reason(data):
    encoded = bytearray(encode(gradient(), data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))))
    places = st.tuples(st.integers(0, len(encoded) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=9)):
        encoded[place] = value
    try:
        assert decode_image(bytes(encoded), max_pixels=10_000).ndim == 3
    except BadRecord as bad:
        assert bad.reason in ("not JPEG, PNG or WEBP", "too many pixels", "damaged image")


def test_shrinking_by_whole_numbers_is_the_mean():
    image = np.random.default_rng(0).integers(0, 256, (14, 15, 3), dtype=np.uint8)
    mean = image.reshape(7, 2, 5, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize_image(image, 7, 5).astype(float), mean, atol=0.51)


def test_slight_shrinking_is_linear():
    """Each pixel from its four neighbours, by hand; an edge repeats itself."""

    def weights(size, wanted):
        centers = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        return np.clip(1 - np.abs(centers[:, None] - np.arange(size)), 0, None)

    image = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    expected = np.einsum("yh,hwc,xw->yxc", weights(19, 13), image, weights(23, 17))
    np.testing.assert_allclose(resize_image(image, 13, 17).astype(float), expected, atol=1)


@pytest.mark.parametrize(("height", "width"), [(40, 41), (41, 40), (41, 61), (61, 41)])
def test_what_shrinks_more_or_not_alone_is_antialiased(height, width):
    """A chequerboard of deviation 100: by linear interpolation 29 of it would come through, 33 where an axis grows."""
    board = np.indices((60, 60)).sum(axis=0)[..., None].repeat(3, -1).astype(np.uint8) % 2 * 200
    assert resize_image(board, height, width).std() < 25


def test_a_shrinking_axis_is_antialiased_while_the_other_grows():
    stripes = np.zeros((5, 210, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_allclose(resize_image(stripes, 11, 7).astype(int), 100, atol=1)


def test_growing_keeps_a_ramp_and_the_size_stays_when_equal():
    ramp = np.tile(np.arange(0, 250, 10, dtype=np.uint8)[None, :, None], (3, 1, 3))
    grown = resize_image(ramp, 5, 75).astype(int)
    assert grown.shape == (5, 75, 3)
    np.testing.assert_allclose(grown[2, 6:-6, 0], (np.arange(75)[6:-6] - 1) / 3 * 10, atol=1)
    np.testing.assert_array_equal(resize_image(gradient(), 17, 23), gradient())


def test_a_picture_that_keeps_its_shape_may_be_smaller_than_its_bucket():
    fit, rng = ImageFit({}, GridResizing(patch=4, places=6)), np.random.default_rng(0)
    fitted = fit(np.zeros((30, 47, 3), np.uint8), (12, 12), rng)
    assert fitted.size == fitted.values.shape[:2] == (8, 12)
    with pytest.raises(BadRecord, match="too long a picture"):
        fit(np.zeros((9, 90, 3), np.uint8), (12, 12), rng)


def test_a_picture_whose_longer_side_would_fill_the_memory_is_bad():
    fit, rng = ImageFit({}, Resizing(224, crop=(224, 224))), np.random.default_rng(0)
    assert fit(np.zeros((3, 300, 3), np.uint8), (224, 224), rng).values.shape == (224, 224, 3)
    for side in (2_000, 200_000):
        with pytest.raises(BadRecord, match="too long a picture"):
            fit(np.zeros((side, 1, 3), np.uint8), (224, 224), rng)
