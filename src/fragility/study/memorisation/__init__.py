"""Networks that memorise, and their maps: chapter 9."""
