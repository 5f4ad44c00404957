"""Image files as containers: what a decoder needs of them, without metadata, and what may tell the orientation.

No decoder sees metadata, so none can refuse or misread an image because of it, and none spends memory on it.
"""

import re
import zlib
from collections.abc import Callable

Info = dict[str, bytes | str]
"""Metadata that may hold the orientation, under the keys of Pillow's ``Image.info``."""

EXIF = b"Exif\0\0"
MAX_TEXT_BYTES = 1 << 20
"""Compressed text is inflated up to here."""

JPEG_START = b"\xff\xd8\xff"
JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""Markers of metadata: comments and application data, except JFIF (E0) and Adobe (EE), which may say how color is
stored."""
JPEG_TABLES = frozenset({*range(0xC0, 0xD0), *range(0xDB, 0xFF)})
"""Markers of segments with a length that may stand before the first scan."""
XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TRANSPARENCY = b"tRNS"
"""The only ancillary chunk that changes pixels."""
XMP_IN_PNG = "XML:com.adobe.xmp"
EXIF_AS_TEXT = "Raw profile type exif"

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_PIXEL_TAGS = frozenset(
    {*range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, *range(320, 326), 332, 338, 339, 347}
    | {*range(512, 522), *range(529, 533)}
)
"""Tags that say how pixels are stored, and the orientation (274)."""

HEIF_METADATA = re.compile(rb"(infe[\x02\x03].{7,9}?)(?:Exif|mime)", re.DOTALL)
"""An entry of Exif or XMP in the list of items of a HEIF or AVIF file, which states the orientation elsewhere."""


def without_metadata(content: bytes) -> tuple[bytes, Info]:
    """Return the bytes of an image file without metadata, and the metadata that may tell its orientation.

    Metadata are left out of JPEG, PNG, TIFF (which becomes its first page), AVIF and HEIC. A file of another kind, or
    from the first damage on, is returned as it is: its decoder judges it.
    """
    strip: Callable[[bytes], tuple[bytes, Info]]
    if content.startswith(JPEG_START):
        strip = _strip_jpeg
    elif content.startswith(PNG_START):
        strip = _strip_png
    elif content.startswith(TIFF_STARTS):
        strip = _strip_tiff
    elif content[4:8] == b"ftyp":
        return HEIF_METADATA.sub(rb"\1skip", content), {}
    else:
        return content, {}
    return strip(content)


def _strip_jpeg(content: bytes) -> tuple[bytes, Info]:
    kept, info, place = [content[:2]], Info(), 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker not in JPEG_TABLES or length < 2:
            break
        end = place + 2 + length
        if marker in JPEG_METADATA:
            data = content[place + 4 : end]
            if data.startswith(EXIF):  # a long one is continued in the next segment
                info["exif"] = info["exif"] + data[len(EXIF) :] if "exif" in info else data  # type: ignore[operator]
            elif data.startswith(XMP_IN_JPEG):
                info["xmp"] = data[len(XMP_IN_JPEG) :]
        else:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]]), info


def _strip_png(content: bytes) -> tuple[bytes, Info]:
    kept, info, place = [content[:8]], Info(), 8
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        if kind[:1].isupper() or kind == PNG_TRANSPARENCY:  # critical chunks begin with a capital letter
            kept.append(content[place:end])
        elif kind == b"eXIf":
            info["exif"] = EXIF + content[place + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _png_text(kind, content[place + 8 : end - 4])
            if keyword in (XMP_IN_PNG, EXIF_AS_TEXT):
                info[keyword] = text
        place = end
    return b"".join([*kept, content[place:]]), info


def _png_text(kind: bytes, data: bytes) -> tuple[str, str]:
    keyword, _, text = data.partition(b"\0")
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
    elif compressed:
        text = text[1:]
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_TEXT_BYTES)
        except zlib.error:
            text = b""
    return keyword.decode("latin-1"), text.decode("latin-1")


def _strip_tiff(content: bytes) -> tuple[bytes, Info]:
    """Rewrite the first directory in its place: only the entries that pixels need, and no further page."""
    order = "little" if content.startswith(b"II") else "big"
    offset_bytes, count_bytes, entry_bytes = (8, 8, 20) if b"+" in content[:4] else (4, 2, 12)

    def number(place: int, size: int) -> int:
        return int.from_bytes(content[place : place + size], order)  # type: ignore[arg-type]

    directory = number(offset_bytes, offset_bytes)
    first, count = directory + count_bytes, number(directory, count_bytes)
    end = first + count * entry_bytes + offset_bytes
    if directory < 8 or end > len(content):
        return content, {}
    places = [place for place in range(first, end - offset_bytes, entry_bytes) if number(place, 2) in TIFF_PIXEL_TAGS]
    entries = b"".join(content[place : place + entry_bytes] for place in places)
    shorter = len(places).to_bytes(count_bytes, order) + entries + bytes(offset_bytes)  # type: ignore[arg-type]
    return content[:directory] + shorter + content[directory + len(shorter) :], {}
