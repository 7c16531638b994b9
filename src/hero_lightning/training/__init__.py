"""The LightningModule and what it learns with: losses, optimizers, augmentation, checkpoints."""
