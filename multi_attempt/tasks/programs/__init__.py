"""Programs of models: taken apart into trials, and run in a sandbox."""
