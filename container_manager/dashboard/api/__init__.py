"""The JSON API: what the dashboard shows and does, version 1. `container_manager.dashboard.api.urls` has its URLs."""
