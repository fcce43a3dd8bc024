"""Tasks beside other backends for Django's task framework, procrastinate and Celery: ``python -m benchmarks.tasks``."""
