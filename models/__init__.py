"""What a model is: schedule, sub-sequence, sampling plan, manifest, catalogue, network and step graph.

Everything here but :mod:`models.network` and :mod:`models.export` is numpy only, so the service never reaches torch.
"""
