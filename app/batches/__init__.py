"""Batches: many questions in one file, answered by a job."""
