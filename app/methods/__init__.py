"""The attribution methods this server knows."""
