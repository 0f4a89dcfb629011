"""`tiny` and its relatives: our own small vision-language model."""
