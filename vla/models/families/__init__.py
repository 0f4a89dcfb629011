"""What is known of a kind of vision-language model: one file a family, behind one protocol."""
