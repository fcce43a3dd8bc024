"""The dashboard is the site's first page; the admin is beside it."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="container_manager_dashboard:overview")),
    path("jobs/api/v1/", include("container_manager.dashboard.api.urls")),
    path("jobs/", include("container_manager.dashboard.urls")),
    path("admin/", admin.site.urls),
]
