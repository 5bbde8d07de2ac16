"""Trains heads on a model's frozen states: labelled documents in, a model folder out."""
