"""How far to trust a prediction: temperature, rejection, and images unlike those of training."""
