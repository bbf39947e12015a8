"""Indexes: model × dataset × method, built by a job."""
