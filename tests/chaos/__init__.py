"""Chaos test: kill, freeze and cut off workers, database and engine while jobs run, then check every job.

``python -m tests.chaos postgresql --jobs 1000 --seed 7``
"""
