"""The dashboard's URLs, for ``path("jobs/", include("container_manager.dashboard.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import bulk_page, changes, failures_page, job_page, jobs_page, log_page, overview_page, queues_page, workers_page

app_name = "container_manager_dashboard"
urlpatterns = [
    path("", overview_page.overview, name="overview"),
    path("jobs/", jobs_page.jobs, name="jobs"),
    path("jobs/act/", jobs_page.act_on_jobs, name="act_on_jobs"),
    path("jobs/<uuid:key>/", job_page.job, name="job"),
    path("jobs/<uuid:key>/act/", job_page.act_on_job, name="act_on_job"),
    path("jobs/<uuid:key>/log/", log_page.log, name="log"),
    path("jobs/<uuid:key>/log/<int:number>/", log_page.log_file, name="log_file"),
    path("acts/<uuid:key>/", bulk_page.bulk_act, name="bulk_act"),
    path("acts/<uuid:key>/go-on/", bulk_page.go_on, name="go_on"),
    path("acts/<uuid:key>/stop/", bulk_page.stop_bulk_act, name="stop_bulk_act"),
    path("queues/", queues_page.queues, name="queues"),
    path("queues/pause/", queues_page.pause, name="pause"),
    path("workers/", workers_page.workers, name="workers"),
    path("changes/", changes.changes, name="changes"),
    path("failures/", failures_page.failures, name="failures"),
]
