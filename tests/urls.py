"""The admin and the dashboard, for their tests."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("jobs/", include("container_manager.dashboard.urls"))]
