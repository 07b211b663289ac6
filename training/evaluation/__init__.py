"""Measuring the images that models make: one JSON a run, and docs/results.md from all of them.

result          what a run measures, and the result of one model
facts           how a model was made, and the method whose curve it belongs to
samplers        samplers under test: weights that take denoise steps, and the plan they follow
family          the models of one family, found by the names that users give
images          images by chunk, kept on disk: from noise, along paths between noises, from other images
features        ImageNet features of images, kept beside them
distances       KID, Fréchet distance, precision and recall between two sets of features
agreement       how closely two sets made from the same noise agree, pixel by pixel and in features
classifier      the judge of class agreement
paths           smoothness of interpolation
reconstruction  images from noised ones
timing          the time an image takes
measure         all of it for every model of a run -> results
record          results -> JSON, manifests and model cards; and back
parts           results over disjoint images of one model, pooled
tables, verdicts, curves, figure    results -> docs/results.md and its pictures
"""
