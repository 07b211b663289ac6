"""Comparisons of models on the same noises.

plan.py       decide what is run, and refuse requests that make no sense or take too long
run.py        run it: a warm-up, then measured rounds in random order
numbers.py    compute spreads, speed-ups and agreement
progress.py   report it event by event, from the first image to the summary
"""
