"""The empirical audit: attack the mechanism; what it gives away is certainly lost. A lower bound, never a proof."""
