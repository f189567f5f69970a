"""What an attempt was worth: estimators in verl's registry, one file an algorithm (docs/algorithms.md)."""
