"""How predictions hold up when test images are corrupted."""
