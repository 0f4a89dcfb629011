"""Language models that are used as they are: sentence encoders."""
