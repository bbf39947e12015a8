"""Causal checks: what changing the training really did to one stored answer, measured in a job."""
