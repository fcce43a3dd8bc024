"""Kill, freeze and restart everything while jobs run, then look for one that lies.

``python -m tests.chaos postgresql --jobs 1000 --seed 7``
"""
