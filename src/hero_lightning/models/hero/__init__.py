"""HERO: experts, synergy, adaptive query, evidence integration, imputation."""
