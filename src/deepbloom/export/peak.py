"""Opens an exported file in a process of its own, classifies one image, and prints the peak memory in bytes."""

import sys

import numpy as np

from deepbloom.device import peak_memory_bytes
from deepbloom.export.opening import open_predictor

if __name__ == "__main__":
    predictor = open_predictor(sys.argv[1], "cpu")
    predictor.logits(np.zeros((1, predictor.preprocessing.size, predictor.preprocessing.size, 3), np.uint8))
    print(peak_memory_bytes())
