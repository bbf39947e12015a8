"""Evaluations: how far an index's rankings can be trusted, measured by retraining in a job."""
