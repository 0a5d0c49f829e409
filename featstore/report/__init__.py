"""A page about results, and the notes beside them that say how they were made."""
