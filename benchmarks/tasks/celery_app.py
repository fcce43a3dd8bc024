"""Celery with Redis as broker and for results, which the others store too."""

import os

from celery import Celery

app = Celery("benchmark", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
app.conf.imports = ["benchmarks.tasks.functions"]
app.conf.broker_connection_retry_on_startup = True
