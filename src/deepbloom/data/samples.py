"""Sample images, so that ``image=sample`` works anywhere: drawn flowers, and scikit-learn's two photographs."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from deepbloom.data.cache_folder import cache_folder
from deepbloom.errors import DataError, RunError
from deepbloom.runs import files as atomic_files

PHOTOGRAPHS = ("flower.jpg", "china.jpg")
ATTRIBUTION = "flower.jpg and china.jpg are scikit-learn's sample images (CC BY 2.0, by vultilion and danielbuechele)."
SPECIES = 6
NUMBER = 900_001
"""Of each drawn flower among those of its species: beyond those that anyone trains with."""


def sample_images() -> list[Path]:
    """Return the drawn flowers, which are drawn into the cache folder at first use, and the photographs.

    Raises
    ------
    DataError
        The cache folder cannot be written.
    """
    try:
        return [*_draw_flowers(), *_find_photographs()]
    except (OSError, RunError) as error:
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise DataError(
            f"The sample images cannot be drawn into the cache folder: {reason}. Set DEEPBLOOM_CACHE to a folder that "
            "can be written, or give images of your own."
        ) from error


def _draw_flowers() -> list[Path]:
    from deepbloom.data.sources.synthetic.source import GENERATOR_VERSION, SyntheticFlowers
    from deepbloom.data.sources.synthetic.species import all_species

    names = tuple(species.name for species in all_species()[:SPECIES])
    image_ids = tuple(f"species_{number:03d}/{NUMBER}" for number in range(SPECIES))
    flowers = SyntheticFlowers("synthetic", image_ids, np.arange(SPECIES), names, fingerprint="")
    folder = atomic_files.make_folder(cache_folder() / "samples" / str(GENERATOR_VERSION))
    paths = [folder / f"{name.replace(' ', '_')}.png" for name in names]
    for number, path in enumerate(paths):
        if not path.exists():
            content = io.BytesIO()
            flowers.read(number).save(content, "png")
            atomic_files.write_bytes(path, content.getvalue())
    return paths


def _find_photographs() -> list[Path]:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        return []
    folder = Path(package.origin).parent / "datasets" / "images"
    return [folder / name for name in PHOTOGRAPHS if (folder / name).exists()]
