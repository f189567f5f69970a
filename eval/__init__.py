"""Evaluation: how good models are with one to several attempts, and the report of a run."""
