"""Container jobs whose status cannot lie."""
