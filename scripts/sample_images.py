"""Write a few images to try things on: drawn flowers, and scikit-learn's sample flower.jpg (a dahlia, CC BY).

python scripts/sample_images.py FOLDER
"""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image

from deepbloom.config.settings import DataConfig
from deepbloom.data.sources.synthetic import load


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(load_sample_image("flower.jpg")).save(folder / "flower.jpg", quality=95)
    flowers = load(DataConfig("synthetic", num_classes=10, images_per_class=3, seed=1))
    for index in (0, 9, 21):
        flowers.read(index).save(folder / f"drawn_{flowers.class_names[flowers.targets[index]].replace(' ', '_')}.png")


if __name__ == "__main__":
    main()
