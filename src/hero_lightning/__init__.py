"""hero_lightning: multimodal emotion recognition and reasoning with Hydra and PyTorch Lightning."""

__version__ = "0.1.0"
