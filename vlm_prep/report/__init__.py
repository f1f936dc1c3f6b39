"""What a finished store holds, for people and as JSON."""
