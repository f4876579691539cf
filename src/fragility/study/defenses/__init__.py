"""Chapter 6: defenses, trained and attacked."""
