"""What people read of a run: files, tables, plots, explanations."""
