"""What the language model reads and writes: evidence in words, prompts, answers, training targets, reports."""
