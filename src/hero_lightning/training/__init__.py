"""Training: the LightningModule, losses, optimizers, augmentation, checkpoints."""
