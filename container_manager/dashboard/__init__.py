"""The dashboard: an app of its own, with pages and a JSON API. Nothing of the core imports it."""
