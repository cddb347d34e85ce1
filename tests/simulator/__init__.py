"""Two processes over a log in memory, one seed, one thread at a time: faults where no real fault reaches."""
