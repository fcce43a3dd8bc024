"""What the tests of a project import to run the jobs that its code queues. Nothing of the package imports it.

`container_manager.testing.conformance`, for executors of one's own, and `container_manager.testing.pytest_plugin` need
pytest; what is here does not.
"""

from .fake_executor import FakeExecutor, FakeJobs, FakeRun, fake_jobs
from .inline import JobNotRun, run_job, run_queued_jobs

__all__ = ["FakeExecutor", "FakeJobs", "FakeRun", "JobNotRun", "fake_jobs", "run_job", "run_queued_jobs"]
