"""How long the dashboard's pages take with very many jobs."""
