"""Datasets: rows in verl's schema, and the command that makes them of public sources or of a user's own files.

A source's rows are read (``files``, ``hub``) by what the table knows of it (``sources``), their gold answers checked
(``golds``), training rows that also stand in an evaluation set removed (``overlap``), and the rest written with a
manifest that says all this (``store``); ``prepare`` puts the steps in order, ``command`` is the command line.
"""

from multi_attempt.data.rows import evaluation_source, make_row, read_evaluation_source, write_parquet

__all__ = ["evaluation_source", "make_row", "read_evaluation_source", "write_parquet"]
