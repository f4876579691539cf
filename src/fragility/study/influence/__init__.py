"""Chapter 3: influence functions and attacks on them."""
