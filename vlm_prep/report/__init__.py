"""What a finished store holds, and what a run will make of a source, for people and as JSON."""
