"""Feature files of other projects, read through a loader that runs nothing."""
