"""Late labels: records of labels, and the events that wait for them."""
