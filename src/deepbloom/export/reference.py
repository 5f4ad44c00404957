"""The reference preprocessing that ships beside an exported file."""

from deepbloom.data.images import REDUCED_SIDE
from deepbloom.data.preprocessing import Preprocessing

NAME = "preprocess.py"
SOURCE = '''\
"""From an image file to the network's input, uint8 RGB of shape (1, SIZE, SIZE, 3). Needs NumPy and Pillow."""

import numpy as np
from PIL import Image, ImageOps

SIZE, RESAMPLING = {size}, Image.Resampling.{resampling}


def to_8_bits(image):  # white is 65,535 for 16 bits; for 32 bits the first of these that no pixel exceeds
    gray = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0, posinf=0, neginf=0)
    scales = (65535,) if image.mode.startswith("I;16") else (1,) * (image.mode == "F") + (255, 65535, 2**32 - 1)
    white = next((scale for scale in scales if gray.max() <= scale), gray.max())
    return Image.fromarray((gray * (255 / white)).round().clip(0, 255).astype(np.uint8))


def preprocess(path):
    with open(path, "rb") as file, Image.open(file) as image:  # given a path, Pillow turns some TIFFs wrongly
        image.draft(image.mode, ({reduced}, {reduced}))  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = to_8_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
{fit}
        return np.asarray(image)[None]
'''


FITS = {
    "squash": "        image = image.resize((SIZE, SIZE), RESAMPLING)",
    "crop": """\
        left, top = [(length - min(image.size)) / 2 for length in image.size]
        image = image.resize((SIZE, SIZE), RESAMPLING, (left, top, left + min(image.size), top + min(image.size)))""",
    "pad": """\
        inner = [max(1, round(SIZE * length / max(image.size))) for length in image.size]
        square = Image.new("RGB", (SIZE, SIZE), {padding})
        square.paste(image.resize(inner, RESAMPLING), ((SIZE - inner[0]) // 2, (SIZE - inner[1]) // 2))
        image = square""",
}
"""How an image becomes square, by `Preprocessing.fit`."""


def reference_source(preprocessing: Preprocessing) -> str:
    """Return the source of ``preprocess.py`` for a network."""
    return SOURCE.format(
        size=preprocessing.size,
        reduced=REDUCED_SIDE,
        resampling=preprocessing.interpolation.upper(),
        fit=FITS[preprocessing.fit].replace("{padding}", str(preprocessing.padding)),
    )
