"""Comparisons of models on the same noises.

plan.py       decide what is run, and refuse what makes no sense or takes too long
run.py        run it: a warm-up, then measured rounds in random order
numbers.py    what the measurements mean
progress.py   one comparison from its first image to its summary, event by event
"""
