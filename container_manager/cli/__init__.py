"""The ``container`` command: a module per verb, and what it needs without a Django project."""
