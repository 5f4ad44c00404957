"""Pictures: sources, splits, decoded pixels, preprocessing and batches."""
