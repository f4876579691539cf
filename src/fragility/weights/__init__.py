"""The weights that the package carries, and how they were made: see README.md beside this file."""
