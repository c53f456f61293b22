"""How the embedded model is made: tokenizer, training, evaluation and card."""
