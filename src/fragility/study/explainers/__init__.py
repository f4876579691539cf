"""Models that lie to explainers, and what can be proved: the studies and rules of chapter 10."""
