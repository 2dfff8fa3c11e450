# SPDX-License-Identifier: Apache-2.0
"""Blur synthesis, dataset, trainer, evaluator. Run from a checkout: ``python -m training.train --help``."""
