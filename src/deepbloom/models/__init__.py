"""Networks by name, their pretrained weights, and which of their parts train."""
