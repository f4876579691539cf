"""Chapters 4 and 5: why maps are fragile, and in which direction."""
