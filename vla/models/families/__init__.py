"""Model families: what differs between kinds of vision-language models, one file per family, behind one protocol."""
