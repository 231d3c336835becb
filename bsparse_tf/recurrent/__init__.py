"""Recurrent networks with block-sparse weights: their cells, and the loop over time."""
