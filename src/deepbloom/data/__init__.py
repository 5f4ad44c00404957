"""Images: sources, splits, decoded pixels, preprocessing and batches."""
