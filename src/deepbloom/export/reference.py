"""The reference preprocessing that ships beside an exported file."""

from deepbloom.data.images import REDUCED_SIDE
from deepbloom.data.preprocessing import Preprocessing

NAME = "preprocess.py"
SOURCE = '''\
"""From an image file to the network's input, uint8 RGB of shape (1, SIZE, SIZE, 3). Needs NumPy and Pillow."""

import numpy as np
from PIL import Image, ImageOps

SIZE, RESAMPLING = {size}, Image.Resampling.{resampling}


def preprocess(path):
    with Image.open(path) as image:
        image.draft(image.mode, ({reduced}, {reduced}))  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size
        image = ImageOps.exif_transpose(image)
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
