"""Ask, and read the answer."""
