"""Aliases: names that point at indexes, and move from one to another at once."""
