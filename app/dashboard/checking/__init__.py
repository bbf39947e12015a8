"""Causal checks on the page of an answer, and each on a page of its own."""
