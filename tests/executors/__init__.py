"""Tests of the executors: one suite that all of them pass, and what is special to each."""
