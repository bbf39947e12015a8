"""Long work: the queue, its state and its events."""
