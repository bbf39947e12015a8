"""The service: HTTP, SQL, jobs and people; never a tensor."""

__version__ = "0.1.0"
