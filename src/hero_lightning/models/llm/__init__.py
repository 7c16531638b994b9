"""The language-model head: loading, prompts spliced with evidence, scoring, generation."""
