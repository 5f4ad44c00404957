"""From an image of any mode to one that is upright and in RGB."""

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each Exif orientation upright."""
FULL_SCALES = (255, 65_535, 2**32 - 1)
"""White in integers of 8, 16 and 32 bits."""


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode upright (Exif), in RGB and without metadata; transparent areas lie on white."""
    image.load()  # the orientation of a TIFF is applied here
    transposition = TRANSPOSITIONS.get(orientation(image))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    elif image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if transposition is not None:
        image = image.transpose(transposition)
    image.info = {}
    return image


def undecoded(image: Image.Image) -> bytes | None:
    """Return the file that an opened JPEG is still to be decoded from; None for any other image."""
    if not isinstance(image, JpegImageFile) or not image.tile or image.fp is None:
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    return content


def orientation(image: Image.Image) -> int:
    """Return the Exif orientation, 1 to 8; 1 if there is none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata raise anything
        return 1
    return value if value in TRANSPOSITIONS else 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a gray image of 16 or 32 bits as 8 bits; Pillow's own conversion would clip it.

    White is 65,535 for 16 bits. In 32 bits, which do not say how many are used, it is the first of 1 (floating point
    only), 255, 65,535 and 2^32 - 1 that no pixel exceeds.
    """
    gray = np.nan_to_num(np.asarray(image).astype(np.float32), copy=False, nan=0, posinf=0, neginf=0)
    scales: tuple[int, ...] = (FULL_SCALES[1],) if image.mode.startswith("I;16") else FULL_SCALES
    if image.mode == "F":
        scales = (1, *scales)
    largest = gray.max()
    white = next((scale for scale in scales if largest <= scale), largest)
    gray *= 255 / white
    return Image.fromarray(gray.round(out=gray).clip(0, 255, out=gray).astype(np.uint8))
