"""Models that need no explanation: the studies and rules of chapter 8."""
