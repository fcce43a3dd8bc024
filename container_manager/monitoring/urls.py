"""``path("monitoring/", include("container_manager.monitoring.urls"))``."""

from django.urls import path

from .views import health, metrics

app_name = "container_manager_monitoring"
urlpatterns = [path("metrics", metrics, name="metrics"), path("health", health, name="health")]
