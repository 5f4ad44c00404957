"""How `deepbloom data` and the search for near-duplicates grow with the number of images.

    python benchmarks/many_images.py --images 100000 --work FOLDER

Writes small JPEGs of smooth noise into FOLDER, unless they are there, and measures the first start (from empty caches),
the second, and one that reads all files again. Anonymous memory is what the process itself holds, without mapped files.
The caches take 150 kB of disk for each image.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scaling import peak_anonymous
from tqdm import tqdm

from deepbloom.data.near_duplicates import Fingerprints, find_near_duplicates

CLASSES = 100


def draw(folder: Path, count: int) -> None:
    """Write ``count`` JPEGs of 32 to 64 pixels in `CLASSES` folders; two of a thousand are copies of the one before."""
    rng = np.random.default_rng(0)
    for number in tqdm(range(count), "Drawing images", disable=None):
        if number % 1000 not in (500, 501):
            side = int(rng.integers(32, 65))
            noise = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            image = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        path = folder / f"class{number % CLASSES:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=85)


def measure(name: str, folder: Path, work: Path, *options: str) -> None:
    """Run ``deepbloom data`` and print a row of a Markdown table."""
    command = [sys.executable, "-m", "deepbloom", "data", "data=imagefolder", f"data.root={folder}", *options]
    started, used_before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        [*command, f"output_dir={work / 'out'}"],
        env=os.environ | {"DEEPBLOOM_CACHE": str(work / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    anonymous = peak_anonymous(process)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds, used = time.perf_counter() - started, os.times()
    busy = used.children_user + used.children_system - used_before.children_user - used_before.children_system
    print(f"| {name} | {seconds:.0f} s | {busy:.0f} s | {anonymous / 1e6:.0f} MB |", flush=True)


def compare(count: int) -> None:
    """Time the comparison of random fingerprints, in the proportions of a split: a fifth of the images is tested."""
    rng = np.random.default_rng(0)
    bits, thumbnails = (rng.integers(0, 256, (count, *shape), dtype=np.uint8) for shape in ((32,), (16, 16, 3)))
    prints = Fingerprints(bits, thumbnails)
    started, busy = time.perf_counter(), time.process_time()
    find_near_duplicates(prints[: count // 5], prints[count // 5 :])
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    print(f"| {count:,} | {seconds:.1f} s | {busy:.1f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    folder = args.work / f"images-{args.images}"
    if not folder.exists():
        draw(folder, args.images)
        time.sleep(4)  # the index trusts no file that was written moments ago
    shutil.rmtree(args.work / "cache", ignore_errors=True)
    print(f"{args.images:,} images\n\n| start | time | processor time | anonymous memory |\n|---|---|---|---|")
    measure("first", folder, args.work)
    measure("second", folder, args.work)
    measure("second, all files read again", folder, args.work, "data.verify=full")
    print("\n| images | comparing all | processor time |\n|---|---|---|")
    for count in (args.images // 4, args.images // 2, args.images):
        compare(count)


if __name__ == "__main__":
    main()
