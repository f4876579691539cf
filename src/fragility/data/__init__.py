"""Images and tables: what a user loads, where it comes from, and how it is downloaded and checked."""
