# The tables as of the first release.

import container_manager.columns.indexes
import container_manager.columns.name_field
import container_manager.jobs.identifiers
import container_manager.jobs.printable
import container_manager.statemachine
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="PausedQueue",
            fields=[
                (
                    "name",
                    container_manager.columns.name_field.NameField(max_length=64, primary_key=True, serialize=False),
                ),
                ("paused_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "paused_by",
                    models.CharField(
                        blank=True,
                        default="",
                        max_length=255,
                        validators=[container_manager.jobs.printable.validate_line],
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    container_manager.columns.name_field.NameField(max_length=64, primary_key=True, serialize=False),
                ),
                ("host", models.CharField(max_length=255)),
                ("place", models.CharField(blank=True, db_default="", default="", max_length=255)),
                ("pid", models.PositiveIntegerField()),
                ("queues", models.JSONField(default=list)),
                ("executors", models.JSONField(default=list)),
                ("engines", models.JSONField(default=dict)),
                ("engines_away", models.JSONField(default=dict, null=True)),
                ("slots", models.PositiveIntegerField(default=1)),
                ("started_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("lease_expires_at", models.DateTimeField(db_index=True)),
                ("rescuable_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="ContainerJob",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=container_manager.jobs.identifiers.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        blank=True,
                        max_length=255,
                        validators=[container_manager.jobs.printable.validate_line],
                        verbose_name="name",
                    ),
                ),
                (
                    "image",
                    models.CharField(
                        blank=True,
                        max_length=512,
                        validators=[container_manager.jobs.printable.validate_line],
                        verbose_name="image",
                    ),
                ),
                (
                    "command",
                    models.TextField(
                        blank=True,
                        help_text="Shell-quoted; run as argv, without a shell.",
                        validators=[container_manager.jobs.printable.validate_lines],
                        verbose_name="command",
                    ),
                ),
                ("environment", models.JSONField(blank=True, default=dict, verbose_name="environment")),
                (
                    "secrets",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="Variable name → where the worker reads the value.",
                        verbose_name="secrets",
                    ),
                ),
                (
                    "secret_files",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="File name → where the worker reads the content.",
                        verbose_name="secret files",
                    ),
                ),
                (
                    "working_directory",
                    models.CharField(
                        blank=True,
                        max_length=1024,
                        validators=[container_manager.jobs.printable.validate_line],
                        verbose_name="working directory",
                    ),
                ),
                (
                    "container",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="What it asks for: user, tmpfs, volumes, network, …",
                        verbose_name="container",
                    ),
                ),
                (
                    "memory_bytes",
                    models.PositiveBigIntegerField(blank=True, null=True, verbose_name="memory limit (bytes)"),
                ),
                (
                    "cpu_count",
                    models.FloatField(
                        blank=True,
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0.001),
                            django.core.validators.MaxValueValidator(8192),
                        ],
                        verbose_name="CPU limit (cores)",
                    ),
                ),
                (
                    "timeout_seconds",
                    models.PositiveIntegerField(
                        blank=True,
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(2147483647)],
                        verbose_name="timeout (s)",
                    ),
                ),
                (
                    "grace_seconds",
                    models.PositiveIntegerField(
                        default=10,
                        validators=[django.core.validators.MaxValueValidator(2147483647)],
                        verbose_name="grace period (s)",
                    ),
                ),
                (
                    "executor",
                    container_manager.columns.name_field.NameField(
                        default="default", max_length=64, verbose_name="executor"
                    ),
                ),
                (
                    "queue",
                    container_manager.columns.name_field.NameField(
                        default="default", max_length=64, verbose_name="queue"
                    ),
                ),
                (
                    "priority",
                    models.SmallIntegerField(
                        default=50,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100),
                        ],
                        verbose_name="priority",
                    ),
                ),
                ("scheduled_for", models.DateTimeField(blank=True, null=True, verbose_name="scheduled for")),
                ("queued_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="queued at")),
                (
                    "launched_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="launched at"),
                ),
                (
                    "completed_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="completed at"),
                ),
                ("retry_count", models.IntegerField(default=0, editable=False, verbose_name="retries so far")),
                (
                    "max_retries",
                    models.IntegerField(
                        default=3,
                        validators=[django.core.validators.MinValueValidator(0)],
                        verbose_name="retries allowed",
                    ),
                ),
                (
                    "backoff_seconds",
                    models.PositiveIntegerField(
                        blank=True,
                        null=True,
                        validators=[django.core.validators.MaxValueValidator(2147483647)],
                        verbose_name="backoff (s)",
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                            ("retrying", "Retrying"),
                        ],
                        default="pending",
                        max_length=16,
                        verbose_name="status",
                    ),
                ),
                ("status_version", models.PositiveIntegerField(default=0, editable=False)),
                ("status_changed_at", models.DateTimeField(blank=True, editable=False, null=True)),
                ("status_changed_by", models.CharField(blank=True, default="", editable=False, max_length=255)),
                ("status_changed_reason", models.TextField(blank=True, default="", editable=False)),
                ("exit_code", models.IntegerField(blank=True, editable=False, null=True, verbose_name="exit code")),
                (
                    "failure_reason",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("error", "Non-zero exit code"),
                            ("signal", "Ended by a signal"),
                            ("oom", "Out of memory"),
                            ("timeout", "Timed out"),
                            ("image", "Image not available"),
                            ("start", "Could not be started"),
                            ("unschedulable", "Could not be scheduled"),
                            ("unavailable", "Registry, disk or the like not available"),
                            ("node_lost", "Node lost"),
                            ("lost", "Lost: nobody knows how it ended"),
                        ],
                        default="",
                        editable=False,
                        max_length=16,
                        verbose_name="failure reason",
                    ),
                ),
                ("last_error", models.TextField(blank=True, default="", editable=False, verbose_name="last error")),
                (
                    "worker",
                    container_manager.columns.name_field.NameField(
                        blank=True, default="", editable=False, max_length=64, verbose_name="worker"
                    ),
                ),
                ("attempt", models.PositiveIntegerField(default=0, editable=False, verbose_name="attempt")),
                ("labels", models.JSONField(blank=True, default=dict, verbose_name="labels")),
                (
                    "task",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        max_length=255,
                        validators=[container_manager.jobs.printable.validate_line],
                        verbose_name="task",
                    ),
                ),
                ("task_arguments", models.JSONField(blank=True, null=True, verbose_name="task's arguments")),
                (
                    "unique_key",
                    container_manager.columns.name_field.NameField(
                        blank=True, db_default="", default="", max_length=255, verbose_name="unique key"
                    ),
                ),
                (
                    "unique_until",
                    models.CharField(
                        choices=[("started", "Until it has started"), ("finished", "Until it has finished")],
                        db_default="finished",
                        default="finished",
                        max_length=8,
                        verbose_name="unique until",
                    ),
                ),
                (
                    "unique_seconds",
                    models.PositiveIntegerField(
                        blank=True,
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(2147483647),
                        ],
                        verbose_name="unique for (s)",
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False, verbose_name="created at"),
                ),
                (
                    "created_by",
                    models.CharField(
                        blank=True,
                        default="",
                        max_length=255,
                        validators=[container_manager.jobs.printable.validate_line],
                        verbose_name="created by",
                    ),
                ),
                (
                    "origin",
                    models.UUIDField(
                        blank=True,
                        editable=False,
                        help_text="The finished job that this one runs again.",
                        null=True,
                        verbose_name="origin",
                    ),
                ),
            ],
            options={
                "verbose_name": "container job",
                "verbose_name_plural": "container jobs",
                "permissions": [
                    ("cancel_containerjob", "Can cancel container jobs"),
                    ("retry_containerjob", "Can retry container jobs"),
                    ("pause_queues", "Can pause and resume queues"),
                    ("see_environment", "Can see the environment of container jobs"),
                    ("see_output", "Can see the output of container jobs"),
                ],
                "indexes": [
                    container_manager.columns.indexes.PartialIndex(
                        condition=models.Q(("scheduled_for", None), ("status", "queued")),
                        fields=["executor", "queue", "-priority", "queued_at", "id"],
                        leading=["status", "scheduled_for"],
                        name="cm_job_claim",
                    ),
                    container_manager.columns.indexes.PartialIndex(
                        condition=models.Q(("scheduled_for__isnull", False), ("status", "queued")),
                        fields=["executor", "queue", "-priority", "scheduled_for", "id"],
                        leading=["status"],
                        name="cm_job_scheduled",
                    ),
                    models.Index(
                        condition=models.Q(("status__in", ["completed", "failed", "cancelled"])),
                        fields=["status", "status_changed_at", "id"],
                        name="cm_job_finished",
                    ),
                    container_manager.columns.indexes.PartialIndex(
                        condition=models.Q(("status", "retrying")),
                        fields=["scheduled_for"],
                        leading=["status"],
                        name="cm_job_retrying",
                    ),
                    models.Index(
                        condition=models.Q(("status", "running")), fields=["status", "worker"], name="cm_job_running"
                    ),
                    container_manager.columns.indexes.PartialIndex(
                        condition=models.Q(("name", ""), _negated=True),
                        fields=["name", "id"],
                        leading=[],
                        name="cm_job_name",
                        opclasses=["varchar_pattern_ops", "uuid_ops"],
                    ),
                    models.Index(
                        condition=models.Q(("status__in", ["pending", "queued"])),
                        fields=["status", "id"],
                        name="cm_job_waiting",
                    ),
                ],
                "constraints": [
                    container_manager.statemachine.TransitionConstraint(
                        field="status",
                        name="cm_job_transitions",
                        transitions={
                            "cancelled": [],
                            "completed": [],
                            "failed": ["retrying", "cancelled"],
                            "pending": ["queued", "running", "cancelled"],
                            "queued": ["running", "cancelled"],
                            "retrying": ["queued", "cancelled"],
                            "running": ["completed", "failed", "cancelled"],
                        },
                    ),
                    container_manager.statemachine.TransitionJournal(
                        actor="status_changed_by",
                        at="status_changed_at",
                        field="status",
                        name="cm_job_journal",
                        reason="status_changed_reason",
                        source="from_status",
                        subject="job_id",
                        table="container_manager_jobtransition",
                        target="to_status",
                        version="status_version",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "status__in",
                                ["pending", "queued", "running", "completed", "failed", "cancelled", "retrying"],
                            )
                        ),
                        name="cm_job_status_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("completed_at", None),
                                ("launched_at", None),
                                ("queued_at", None),
                                ("status", "pending"),
                            ),
                            models.Q(
                                ("completed_at", None),
                                ("launched_at", None),
                                ("queued_at__isnull", False),
                                ("status", "queued"),
                            ),
                            models.Q(
                                ("completed_at", None),
                                ("launched_at__isnull", False),
                                ("status__in", ["running", "failed", "retrying"]),
                            ),
                            models.Q(
                                ("completed_at__isnull", False), ("launched_at__isnull", False), ("status", "completed")
                            ),
                            models.Q(("completed_at", None), ("status", "cancelled")),
                            _connector="OR",
                        ),
                        name="cm_job_timestamps_match",
                        violation_error_message="The timestamps do not fit the status.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("max_retries__gte", 0), ("retry_count__gte", 0)),
                        name="cm_job_retries_not_negative",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("priority__gte", 0), ("priority__lte", 100)), name="cm_job_priority_range"
                    ),
                    container_manager.columns.indexes.PartialUnique(
                        condition=models.Q(
                            models.Q(("unique_key", ""), _negated=True),
                            models.Q(
                                models.Q(
                                    ("unique_seconds__isnull", False), models.Q(("status", "cancelled"), _negated=True)
                                ),
                                models.Q(
                                    ("status__in", ("pending", "queued", "running", "retrying")),
                                    ("unique_seconds", None),
                                    ("unique_until", "finished"),
                                ),
                                models.Q(
                                    ("attempt", 0),
                                    ("retry_count", 0),
                                    ("status__in", ["pending", "queued"]),
                                    ("unique_seconds", None),
                                    ("unique_until", "started"),
                                ),
                                _connector="OR",
                            ),
                        ),
                        fields=("unique_key",),
                        name="cm_job_unique_key",
                        violation_error_message="Another job holds this key.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="JobAttempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField()),
                ("worker", container_manager.columns.name_field.NameField(max_length=64)),
                ("executor", container_manager.columns.name_field.NameField(max_length=64)),
                ("engine", models.CharField(blank=True, default="", max_length=64)),
                ("handle", models.TextField(blank=True, default="")),
                ("waiting_for", models.CharField(blank=True, db_default="", default="", max_length=1024)),
                ("waited_seconds", models.FloatField(db_default=0.0, default=0.0)),
                ("launched_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                ("kill_requested_at", models.DateTimeField(blank=True, null=True)),
                ("exit_code", models.IntegerField(blank=True, null=True)),
                ("signal", models.PositiveSmallIntegerField(blank=True, null=True)),
                (
                    "reason",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("error", "Non-zero exit code"),
                            ("signal", "Ended by a signal"),
                            ("oom", "Out of memory"),
                            ("timeout", "Timed out"),
                            ("image", "Image not available"),
                            ("start", "Could not be started"),
                            ("unschedulable", "Could not be scheduled"),
                            ("unavailable", "Registry, disk or the like not available"),
                            ("node_lost", "Node lost"),
                            ("lost", "Lost: nobody knows how it ended"),
                        ],
                        default="",
                        max_length=16,
                    ),
                ),
                ("message", models.TextField(blank=True, default="")),
                ("peak_memory_bytes", models.PositiveBigIntegerField(blank=True, null=True)),
                ("cpu_seconds", models.FloatField(blank=True, null=True)),
                ("result", models.JSONField(blank=True, null=True)),
                ("progress", models.JSONField(blank=True, null=True)),
                (
                    "job",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attempts",
                        to="container_manager.containerjob",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="JobLog",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("sequence", models.PositiveIntegerField()),
                (
                    "stream",
                    models.CharField(
                        choices=[("stdout", "stdout"), ("stderr", "stderr"), ("system", "system")], max_length=8
                    ),
                ),
                ("data", models.BinaryField()),
                (
                    "attempt",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="logs",
                        to="container_manager.jobattempt",
                    ),
                ),
            ],
            options={
                "ordering": ["attempt", "sequence"],
            },
        ),
        migrations.CreateModel(
            name="JobTransition",
            fields=[
                ("id", container_manager.statemachine.RowIdField(primary_key=True, serialize=False)),
                (
                    "from_status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                            ("retrying", "Retrying"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "to_status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                            ("retrying", "Retrying"),
                        ],
                        max_length=16,
                    ),
                ),
                ("at", models.DateTimeField()),
                ("actor", models.CharField(blank=True, max_length=255)),
                ("reason", models.TextField(blank=True)),
                (
                    "job",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="transitions",
                        to="container_manager.containerjob",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [container_manager.statemachine.JournalTable(name="cm_job_transition_table")],
            },
        ),
        migrations.CreateModel(
            name="QueueSpan",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("length", models.PositiveSmallIntegerField()),
                ("minute", models.PositiveIntegerField()),
                ("queue", container_manager.columns.name_field.NameField(max_length=64)),
                ("created", models.PositiveBigIntegerField(default=0)),
                ("queued", models.PositiveBigIntegerField(default=0)),
                ("started", models.PositiveBigIntegerField(default=0)),
                ("completed", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("cancelled", models.PositiveBigIntegerField(default=0)),
                ("retried", models.PositiveBigIntegerField(default=0)),
                ("wait_seconds", models.FloatField(default=0.0)),
                ("run_seconds", models.FloatField(default=0.0)),
                ("wait_0", models.PositiveBigIntegerField(default=0)),
                ("wait_1", models.PositiveBigIntegerField(default=0)),
                ("wait_2", models.PositiveBigIntegerField(default=0)),
                ("wait_3", models.PositiveBigIntegerField(default=0)),
                ("wait_4", models.PositiveBigIntegerField(default=0)),
                ("wait_5", models.PositiveBigIntegerField(default=0)),
                ("wait_6", models.PositiveBigIntegerField(default=0)),
                ("wait_7", models.PositiveBigIntegerField(default=0)),
                ("wait_8", models.PositiveBigIntegerField(default=0)),
                ("wait_9", models.PositiveBigIntegerField(default=0)),
                ("wait_10", models.PositiveBigIntegerField(default=0)),
                ("wait_11", models.PositiveBigIntegerField(default=0)),
                ("wait_12", models.PositiveBigIntegerField(default=0)),
                ("wait_13", models.PositiveBigIntegerField(default=0)),
                ("wait_14", models.PositiveBigIntegerField(default=0)),
                ("wait_15", models.PositiveBigIntegerField(default=0)),
                ("wait_16", models.PositiveBigIntegerField(default=0)),
                ("wait_17", models.PositiveBigIntegerField(default=0)),
                ("run_0", models.PositiveBigIntegerField(default=0)),
                ("run_1", models.PositiveBigIntegerField(default=0)),
                ("run_2", models.PositiveBigIntegerField(default=0)),
                ("run_3", models.PositiveBigIntegerField(default=0)),
                ("run_4", models.PositiveBigIntegerField(default=0)),
                ("run_5", models.PositiveBigIntegerField(default=0)),
                ("run_6", models.PositiveBigIntegerField(default=0)),
                ("run_7", models.PositiveBigIntegerField(default=0)),
                ("run_8", models.PositiveBigIntegerField(default=0)),
                ("run_9", models.PositiveBigIntegerField(default=0)),
                ("run_10", models.PositiveBigIntegerField(default=0)),
                ("run_11", models.PositiveBigIntegerField(default=0)),
                ("run_12", models.PositiveBigIntegerField(default=0)),
                ("run_13", models.PositiveBigIntegerField(default=0)),
                ("run_14", models.PositiveBigIntegerField(default=0)),
                ("run_15", models.PositiveBigIntegerField(default=0)),
                ("run_16", models.PositiveBigIntegerField(default=0)),
                ("run_17", models.PositiveBigIntegerField(default=0)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("length", "minute", "queue"), name="cm_span_unique")],
            },
        ),
        migrations.CreateModel(
            name="StatisticsProgress",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("counted_to", models.BigIntegerField(default=0)),
                ("counted_at", models.DateTimeField(null=True)),
                ("marked_to", models.BigIntegerField(default=0)),
                ("marked_at", models.DateTimeField(null=True)),
                ("mark", models.BigIntegerField(default=0)),
                ("created_to", models.PositiveIntegerField(default=0)),
                ("created_again_to", models.PositiveIntegerField(default=0)),
            ],
        ),
        migrations.AddIndex(
            model_name="jobattempt",
            index=container_manager.columns.indexes.PartialIndex(
                condition=models.Q(("finished_at", None)),
                fields=["worker", "executor"],
                leading=["finished_at"],
                name="cm_attempt_open",
            ),
        ),
        migrations.AddConstraint(
            model_name="jobattempt",
            constraint=models.UniqueConstraint(fields=("job", "number"), name="cm_attempt_unique"),
        ),
        migrations.AddConstraint(
            model_name="joblog",
            constraint=models.UniqueConstraint(fields=("attempt", "sequence"), name="cm_log_unique"),
        ),
    ]
