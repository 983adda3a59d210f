"""A model file and good X-rays come in; the model's quality reference goes out, into the file."""
