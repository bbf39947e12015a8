"""Attributions: questions asked, and their stored answers."""
