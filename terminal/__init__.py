"""What the command line is made of: values of options, failures, progress, tables."""
