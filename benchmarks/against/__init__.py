"""This tree beside another commit's, in one run."""
