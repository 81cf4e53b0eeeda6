"""A session's network as files that other programs load, and such files read again."""
