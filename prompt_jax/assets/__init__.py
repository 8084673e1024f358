"""The embedded backbone and tasks, and how they are made again."""
