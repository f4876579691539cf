"""Attack and defend the interpretations of neural networks."""
