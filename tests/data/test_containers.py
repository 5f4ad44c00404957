"""Metadata never decides whether pixels are read: odd ones change nothing, and the orientation is still honored."""

import io
import struct
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from deepbloom.data import images
from deepbloom.data.containers import without_metadata
from deepbloom.data.images import decode
from deepbloom.errors import DataError

Tag = tuple[int, int, int, bytes]
SHORT, LONG, RATIONAL, SIGNED_RATIONAL, DOUBLE = 3, 4, 5, 10, 12
ORIENTATION: Tag = (274, SHORT, 1, struct.pack("<HH", 6, 0))
ODD_TAGS: dict[str, Sequence[Tag]] = {
    "resolution unit of 70000": [(296, LONG, 1, struct.pack("<I", 70_000))],
    "rational of -1/0": [(282, SIGNED_RATIONAL, 1, struct.pack("<ii", -1, 0))],
    "rational of 0/0": [(282, RATIONAL, 1, struct.pack("<II", 0, 0))],
    "infinite resolution": [(282, DOUBLE, 1, struct.pack("<d", float("inf")))],
    "maker as a number": [(271, SHORT, 1, struct.pack("<HH", 7, 0))],
    "Exif directory far behind the end": [(0x8769, LONG, 1, struct.pack("<I", 10**9))],
    "GPS directory in itself": [(0x8825, LONG, 1, struct.pack("<I", 8))],
    "60000 bytes that are not there": [(0x9286, 7, 60_000, struct.pack("<I", 40))],
}


def exif(*tags: Tag) -> bytes:
    """Return Exif data put together by hand: orientation 6 (turn clockwise) and ``tags``."""
    entries = sorted([ORIENTATION, *tags])
    table, values = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        table += struct.pack("<HHI", tag, kind, count)
        if len(value) > 4:
            table += struct.pack("<I", 8 + 2 + 12 * len(entries) + 4 + len(values))
            values += value
        else:
            table += value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", 0) + values


def upright() -> Image.Image:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    return Image.fromarray(pixels)


def turned() -> Image.Image:
    return upright().transpose(Image.Transpose.ROTATE_90)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def assert_upright(content: bytes, tolerance: float = 6) -> None:
    found = decode(content)
    assert found.size == (64, 48)
    assert np.abs(np.asarray(found, int) - np.asarray(upright(), int)).mean() < tolerance
    assert not found.info
    assert not found.getexif()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD_TAGS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Truncated:UserWarning")
def test_images_with_odd_exif_are_read_and_turned(odd: str, kind: str) -> None:
    assert_upright(encode(turned(), kind, exif=exif(*ODD_TAGS[odd])))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_is_none_leaves_the_image_as_it_is(kind: str) -> None:
    assert_upright(encode(upright(), kind, exif=b"Exif\0\0" + b"\xff" * 50))


def test_a_tiff_with_odd_tags_is_read_and_turned() -> None:
    for compression in ("raw", "tiff_lzw"):
        content = bytearray(encode(turned(), "TIFF", compression=compression, tiffinfo={274: 6, 296: 2, 282: 72.0}))
        at = content.index(struct.pack("<HHI", 296, SHORT, 1))
        content[at : at + 12] = struct.pack("<HHII", 0x8769, LONG, 1, 10**9)  # tags are no longer sorted either
        assert_upright(bytes(content))


def test_an_avif_with_odd_exif_is_read_and_turned() -> None:
    tags: Tag = (296, SHORT, 1, struct.pack("<HH", 2, 0))
    plain = encode(turned(), "AVIF", exif=exif(tags))
    content = bytearray(plain)
    at = content.index(struct.pack("<HHI", 296, SHORT, 1))
    content[at : at + 12] = struct.pack("<HHII", 296, LONG, 1, 70_000)
    assert_upright(plain)
    assert_upright(bytes(content))


def test_a_heic_image_is_read_and_turned() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    assert_upright(encode(turned(), "HEIF", exif=exif()))


@pytest.mark.parametrize("text", ["zTXt", "iTXt", "tEXt"])
def test_a_png_with_megabytes_of_text_is_read(text: str) -> None:
    info = PngImagePlugin.PngInfo()
    long = "flower " * 200_000
    if text == "iTXt":
        info.add_itxt("prompt", long, zip=True)
    else:
        info.add_text("prompt", long, zip=text == "zTXt")
    assert_upright(encode(upright(), "PNG", pnginfo=info), 1)


def test_a_png_with_a_large_profile_is_read_and_turned() -> None:
    assert_upright(encode(turned(), "PNG", icc_profile=bytes(2_000_000), exif=exif()), 1)


def test_a_png_with_a_wrong_checksum_of_its_text_is_read() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "flower")
    content = encode(upright(), "PNG", pnginfo=info)
    assert_upright(content.replace(b"flower", b"flowEr"), 1)
    with pytest.raises(DataError):  # a control: the same in the header, which pixels need
        decode(content.replace(b"\x08\x02\0\0\0", b"\x08\x02\0\0\x01"))


def test_without_this_protection_metadata_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "flower " * 200_000, zip=True)
    content = encode(upright(), "PNG", pnginfo=info)
    assert_upright(content, 1)
    monkeypatch.setattr(images, "without_metadata", lambda content: (content, {}))
    with pytest.raises(DataError):
        decode(content)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_orientation_may_stand_in_the_xmp_or_text_of_a_png(compressed: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6">' + "layer " * 350_000 + "</x>", zip=compressed)
    assert_upright(encode(turned(), "PNG", pnginfo=info), 1)
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n   26\n{exif().hex()}\n", zip=compressed)
    assert_upright(encode(turned(), "PNG", pnginfo=info), 1)


def test_the_orientation_may_stand_in_the_xmp_of_a_jpeg() -> None:
    assert_upright(encode(turned(), "JPEG", quality=95, xmp=b"<tiff:Orientation>6</tiff:Orientation>"))


def test_the_first_image_of_several_is_read() -> None:
    more = {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]}
    assert_upright(encode(turned(), "MPO", exif=exif(), **more))
    for kind in ("TIFF", "GIF", "AVIF", "WEBP", "PNG"):
        same_size = more | {"append_images": [Image.new("RGB", (64, 48))]}
        assert_upright(encode(upright(), kind, **same_size), 8)


def test_what_metadata_do_not_change_is_decoded_bit_for_bit() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    transparent = noise.convert("P").copy()
    for content in (
        encode(noise, "JPEG", icc_profile=b"profile" * 30_000, comment=b"c" * 60_000, dpi=(300, 300)),
        encode(noise.convert("CMYK"), "JPEG", progressive=True),
        encode(noise.convert("L"), "JPEG", exif=exif((271, 2, 6, b"maker\0"))[:6] + bytes(30)),
        encode(noise.convert("RGBA"), "PNG", dpi=(300, 300)),
        encode(transparent, "PNG", transparency=3),
        encode(noise, "TIFF", compression="jpeg", dpi=(300, 300), software="x" * 500),
        encode(noise.convert("1"), "TIFF", compression="group4"),
        encode(noise, "TIFF", big_tiff=True),
        encode(noise, "WEBP", icc_profile=b"profile"),
    ):
        lean, _ = without_metadata(content)
        with Image.open(io.BytesIO(content)) as whole, Image.open(io.BytesIO(lean)) as found:
            assert (found.mode, found.info.get("transparency")) == (whole.mode, whole.info.get("transparency"))
            assert found.tobytes() == whole.tobytes()


@pytest.mark.filterwarnings("ignore:Truncated:UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF"])
def test_a_file_cut_anywhere_is_read_or_refused(kind: str) -> None:
    content = encode(turned(), kind, exif=exif())
    for length in range(0, len(content), max(1, len(content) // 60)):
        with suppress(DataError):
            assert decode(content[:length]).mode == "RGB"
