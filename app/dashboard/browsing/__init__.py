"""Models, datasets, indexes, self-influence and saved answers: look at them, make them, change and delete them."""
