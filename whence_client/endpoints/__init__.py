"""Every call of the API, written once as a flow; one module a resource. No IO here."""
