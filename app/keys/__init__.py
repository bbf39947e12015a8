"""API keys: who may do what, for which tenant."""
