"""The claim, lease, fence and cancel protocol: its model, and what its tests look at."""
