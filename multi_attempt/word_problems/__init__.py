"""Arithmetic word problems in plain English, for small chat models that have been trained already.

``table.yaml`` has the kinds of problems, their wordings, numbers and words. ``table`` reads and checks it, ``build``
writes what ``questions`` draws from it in verl's schema, and ``command`` is the command line.
"""
