"""The definition of a model: schedule, sub-sequence, sampling plan, noise, manifest, catalogue, network and step graph.

Only models.network and models.export import torch. The service imports neither of them. models.runtime runs a model.
"""
