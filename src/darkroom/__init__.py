"""Darkroom: the serverless GPU worker for the Qwen-Image-Edit family."""

__version__ = "0.1.0"
