"""Historical streams: sources, pacing, producing, and recording a topic to a file."""
