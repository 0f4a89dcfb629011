"""`TinyVLM`, our own small vision-language model, and its configuration, processor and tokenizer."""
