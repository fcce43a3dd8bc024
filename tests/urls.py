"""The admin, the dashboard and its API, for their tests."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("jobs/api/v1/", include("container_manager.dashboard.api.urls")),
    path("jobs/", include("container_manager.dashboard.urls")),
]
