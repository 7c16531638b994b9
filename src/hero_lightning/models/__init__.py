"""The trainable model: experts, synergy, fusion, imputation and heads; it sees Features and nothing before them."""
