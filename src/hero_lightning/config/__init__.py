"""Command line and YAML -> objects; the only package, with the commands, that knows Hydra."""
