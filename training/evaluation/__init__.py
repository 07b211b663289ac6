"""Measurement of the images that models make. A run writes one JSON; docs/results.md is rendered from all of them.

result          the settings of a run, and the result of one model
facts           facts of how a model was made, and the method whose curve it belongs to
candidates      what a run measures: weights, and the plan of their steps
family          the models of one family, found by the names that users give
images          images kept on disk in chunks: from noise, along paths between noises, from other images
features        ImageNet features of images, kept beside them
distances       KID, Fréchet distance, precision and recall between two sets of features
agreement       agreement of two sets made from the same noise, in pixels and in features
classifier      the judge: a classifier that measures class agreement
paths           smoothness of interpolation
reconstruction  images from noised ones
timing          the time an image takes
measure         all measurements of every model of a run -> results
record          results -> JSON, manifests and model cards; JSON -> results
parts           pooling of results over disjoint images of one model
tables, verdicts, curves, figure    results -> docs/results.md and its pictures
"""
