"""The page at /ui: choose an index, ask, read the answer. Rendered on the server; htmx swaps the answer in."""
