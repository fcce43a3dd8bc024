"""The process executor, measured beside a bare pool of subprocesses."""
