"""Pages about what the service does: jobs, API keys, the audit log, status."""
