"""A corpus of odd files among images, made by a script: ``python odd_images.py FOLDER``.

Each file has what is expected of it: the size in which it is read, or None where it is refused.
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATIONS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation, and the change that a camera held so has made to an upright image's pixels."""
Size = tuple[int, int]


def upright() -> Image.Image:
    """Return an image of 24 x 16 pixels whose four quarters differ."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :12], pixels[:8, 12:], pixels[8:, :12] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes = b"", color: int = 2) -> bytes:
    """Return a PNG put together by hand, whatever its header claims."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", rows or zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def scans(side: int, more: int) -> bytes:
    """Return a JPEG of ``side`` x ``side`` pixels that repeats its last pass over them ``more`` times."""
    content = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * more + content[-2:]


def rotated(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    change = ORIENTATIONS.get(orientation)
    image = upright() if change is None else upright().transpose(change)
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[kind]
    return encode(image, kind, exif=exif, **options)


def _modes() -> Iterator[tuple[str, bytes, Size | None]]:
    image, size = upright(), (24, 16)
    for mode in ("L", "CMYK", "RGB"):
        yield f"{mode}.jpg", encode(image.convert(mode), "JPEG"), size
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.png", encode(image.convert(mode), "PNG"), size
    yield "16 bit.png", encode(Image.fromarray(np.full((16, 24), 40_000, np.uint16)), "PNG"), size
    yield "palette with transparency.png", encode(image.convert("P"), "PNG", transparency=0), size
    yield "transparent color.png", encode(image, "PNG", transparency=(30, 30, 220)), size
    yield "gray with transparency.png", encode(image.convert("L"), "PNG", transparency=0), size
    yield "interlaced.png", png(8, 8, rows=zlib.compress((b"\0" + b"\x40" * 24) * 8)), (8, 8)
    yield "progressive.jpg", encode(image, "JPEG", progressive=True), size
    yield "quality 1.jpg", encode(image, "JPEG", quality=1), size
    lossy: dict[str, dict[str, Any]] = {"lossless": {"lossless": True}, "lossy": {"quality": 5}}
    for name, options in lossy.items():
        yield f"{name}.webp", encode(image, "WEBP", **options), size
    yield "alpha.webp", encode(image.convert("RGBA"), "WEBP"), size
    frames = {"save_all": True, "append_images": [image.rotate(180)] * 3}
    yield "animated.webp", encode(image, "WEBP", **frames), size
    yield "animated.png", encode(image, "PNG", **frames), size
    yield "color profile that is none.jpg", encode(image, "JPEG", icc_profile=b"no profile" * 50), size


def _sizes() -> Iterator[tuple[str, bytes, Size | None]]:
    yield "one pixel.png", encode(Image.new("RGB", (1, 1)), "PNG"), (1, 1)
    yield "one pixel.jpg", encode(Image.new("L", (1, 1)), "JPEG"), (1, 1)
    yield "one pixel.webp", encode(Image.new("RGB", (1, 1)), "WEBP"), (1, 1)
    yield "20,000 wide.png", encode(Image.new("L", (20_000, 40)), "PNG"), (20_000, 40)
    yield "20,000 high.jpg", encode(Image.new("L", (1, 20_000)), "JPEG"), (1, 20_000)
    yield "65,000 wide.jpg", encode(Image.new("L", (65_000, 2)), "JPEG"), (65_000, 2)
    yield "too many pixels.png", encode(Image.new("1", (20_000, 4_001)), "PNG"), None
    yield "bomb.png", png(60_000, 60_000, rows=zlib.compress(b"\0" * 20_000_000)), None
    yield "claims four thousand million.png", png(2**31 - 1, 2**31 - 1), None
    yield "no pixels.png", png(0, 0), None
    yield "no width.png", png(0, 10), None
    yield "text bomb.png", png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(b"x" * 70_000_000))), (8, 8)
    yield "ninety passes.jpg", scans(16, 80), (16, 16)
    yield "scan bomb.jpg", scans(2000, 5000), None
    yield "marker bomb.jpg", b"\xff\xd8" + b"\xff\xe1\0\x02" * 4_000_000, None
    yield "film behind.jpg", encode(upright(), "JPEG") + b"\xff\xda\0\x02" * 50_000, (24, 16)
    thumbnail = b"Exif\0\0" + encode(upright(), "JPEG") + b"\xff\xda\0\x02" * 1000
    yield "scans in a thumbnail.jpg", encode(upright(), "JPEG", exif=thumbnail), (24, 16)
    yield "profile bomb.png", png(8, 8, (b"iCCP", b"k\0\0" + zlib.compress(b"x" * 70_000_000))), (8, 8)


def _exif() -> Iterator[tuple[str, bytes, Size | None]]:
    for orientation in ORIENTATIONS:
        yield f"orientation {orientation}.jpg", rotated(orientation), (24, 16)
    for kind in ("PNG", "WEBP"):
        yield f"orientation 6.{kind.lower()}", rotated(6, kind), (24, 16)
    yield "orientation 99.jpg", rotated(99), (24, 16)
    broken = Image.Exif().tobytes() + b"\xff" * 30
    yield "broken exif.jpg", encode(upright(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + broken), (24, 16)


def _damaged() -> Iterator[tuple[str, bytes, Size | None]]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind in ("JPEG", "PNG", "WEBP"):
        suffix, whole = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind], encode(noise, kind)
        yield f"half.{suffix}", whole[: len(whole) // 2], None
        yield f"head.{suffix}", whole[:30], None
        half = whole[: len(whole) // 2]
        yield f"zeros at the end.{suffix}", half + bytes(len(half)), None if kind == "PNG" else (64, 64)
    yield "empty.jpg", b"", None
    yield "one byte.png", b"\x89", None
    yield "wrong checksum.png", encode(noise, "PNG").replace(b"IHDR", b"IHDr"), None
    yield "random.jpg", np.random.default_rng(1).bytes(5000), None
    yield "zeros.webp", bytes(5000), None


def _kinds() -> Iterator[tuple[str, bytes, Size | None]]:
    image, size = upright(), (24, 16)
    for kind in ("GIF", "BMP", "TIFF", "AVIF"):
        yield f"{kind.lower()} called.jpg", encode(image, kind), size
    for kind in ("ICO", "PPM", "TGA", "PCX", "PDF", "EPS", "ICNS", "JPEG2000"):
        yield f"{kind.lower()} called.jpg", encode(image, kind), None
    yield "jpeg called.png", encode(image, "JPEG"), size
    yield "png called.jpg", encode(image, "PNG"), size
    yield "webp called.jpg", encode(image, "WEBP"), size
    yield "page.jpg", b"<html><script>alert(1)</script></html>", None
    yield "drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", None
    yield "script.jpg", b"#!/bin/sh\ntouch canary\n", None
    yield "zip behind.jpg", encode(image, "JPEG") + b"PK\x03\x04" + bytes(200), size
    yield "page behind.png", encode(image, "PNG") + b"<script>alert(1)</script>", size
    yield "gif before.jpg", b"GIF89a/*" + encode(image, "JPEG"), None
    yield "pickle.png", b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.", None
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file\n", None


def _names() -> Iterator[tuple[bytes, bytes, Size | None]]:
    content = encode(upright(), "PNG")
    for name in (
        "new\nline.png",
        "tab\tand\x1b[31mcolor.png",
        "-rf.png",
        "$(touch canary).png",
        "a'b\"c.png",
        "ä 花 🌸.png",
    ):
        yield name.encode(), content, (24, 16)
    yield b"no utf-8 \xff\xfe.png", content, (24, 16)
    yield b"=cmd.png", content, (24, 16)
    yield b"<script>alert(1)<|script>.png", content, (24, 16)
    yield b"n" * 240 + b".png", content, (24, 16)


def _specials(folder: Path) -> Iterator[str]:
    (folder / "directory.jpg").mkdir()
    yield "directory.jpg"
    os.mkfifo(folder / "fifo.jpg")
    yield "fifo.jpg"
    (folder / "loop a.jpg").symlink_to("loop b.jpg")
    (folder / "loop b.jpg").symlink_to("loop a.jpg")
    yield from ("loop a.jpg", "loop b.jpg")
    (folder / "nowhere.jpg").symlink_to("absent")
    yield "nowhere.jpg"
    (folder / "device.jpg").symlink_to("/dev/zero")
    yield "device.jpg"
    (folder / "giant.jpg").write_bytes(encode(upright(), "JPEG")[:-2])
    os.truncate(folder / "giant.jpg", 10**12)  # takes a few kB on the disk
    yield "giant.jpg"
    (folder / "upwards.jpg").symlink_to("..")
    yield "upwards.jpg"


def make(folder: Path) -> dict[Path, Size | None]:
    """Write the corpus into ``folder``; return for each path the size in which it is read, or None for a refusal."""
    folder.mkdir(parents=True)
    expected: dict[Path, Size | None] = {}
    makers: tuple[Callable[[], Iterator], ...] = (_modes, _sizes, _exif, _damaged, _kinds, _names)
    for maker in makers:
        for name, content, size in maker():
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + (name if isinstance(name, bytes) else name.encode())))
            path.write_bytes(content)
            expected[path] = size
    return expected | {folder / name: None for name in _specials(folder)}


if __name__ == "__main__":
    print(f"{len(make(Path(sys.argv[1])))} files")
