"""`streamlearn demo`: a model on a real sensor stream, killed in the middle, and an account of what came out.

In reading order: run (the story), worker (the process that is killed), score (what is checked), screen.
"""
