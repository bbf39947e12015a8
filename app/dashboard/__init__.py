"""The pages at /ui, rendered on the server; htmx swaps parts in. `router` has them all."""
