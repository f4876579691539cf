"""Chapter 2: attacks on importance maps."""
