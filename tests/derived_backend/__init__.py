"""A database backend that is derived from Django's, as those of metrics and tracing are."""
