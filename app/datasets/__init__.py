"""Datasets: uploads and imports; their rows lie below datasets/<sha256>."""
