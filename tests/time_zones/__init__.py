"""The jobs in a project whose times are not stored in UTC: run by `tests.test_time_zones`, once for each zone."""
