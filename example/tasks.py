"""A task of Django's task framework: a function of this project that a worker calls in a process of its own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

try:
    from django.tasks import task
except ImportError:
    # Before Django 6: the package django-tasks.
    from django_tasks import task


@task
def sum_sales(sales: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how much of each product was sold."""
    sums: Counter[str] = Counter()
    for sale in sales:
        sums[sale["product"]] += sale["amount"]
    return dict(sums)
