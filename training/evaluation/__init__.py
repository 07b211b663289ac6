"""Measuring what models make: one JSON a run, and the tables and figures of docs/results.md from all of them.

samplers        what makes images: weights that take denoise steps, and the plan they follow
images          images by chunk, kept on disk: from noise, along paths between noises, from other images
features        ImageNet features of images, kept beside them
distances       KID, Fréchet distance, precision and recall between two sets of features
agreement       how closely two sets made from the same noise agree, pixel by pixel and in features
classifier      the judge of class agreement
paths           smoothness of interpolation
measure         all of it for every model of a run -> rows
record          rows -> JSON, manifests and model cards; and back
tables, verdicts, curves, figure    rows -> docs/results.md and its pictures
"""
