"""Before a run: its values, its data, its machine; and the command that says so."""
