"""What this project says of its own speed and scores, one measurement a file: `add_arguments` and `measure`."""
