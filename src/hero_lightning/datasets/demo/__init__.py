"""The demo dataset: drawn talking people in real MP4 files, with known truth."""
