"""The one training loop, what learns in it, what it keeps and what it measures."""
