"""``make serve``: the admin with a few jobs in it, and a worker beside it, until interrupted."""

import os
import secrets
import subprocess
import sys

PORT = os.environ.get("PORT", "8000")


def main() -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "example.settings"
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from container_manager.models import ContainerJob

    call_command("migrate", verbosity=0)
    password = os.environ.get("EXAMPLE_PASSWORD") or secrets.token_urlsafe(12)
    user, _created = get_user_model().objects.get_or_create(
        username="admin", defaults={"is_staff": True, "is_superuser": True}
    )
    user.set_password(password)
    user.save()
    if not ContainerJob.objects.exists():
        for name, command in (("hello", "echo Hello"), ("failing", "sh -c 'exit 3'"), ("sleepy", "sleep 300")):
            ContainerJob.objects.create_job(name=name, command=command, created_by="example").mark_as_queued()
        ContainerJob.objects.create_job(name="waiting", command="echo Queue me", created_by="example")
    print(f"http://127.0.0.1:{PORT}/  user: admin  password: {password}", flush=True)
    worker = subprocess.Popen([sys.executable, "-m", "django", "container", "worker"])
    try:
        return subprocess.call([sys.executable, "-m", "django", "runserver", "--noreload", f"127.0.0.1:{PORT}"])
    except KeyboardInterrupt:
        return 0
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    sys.exit(main())
