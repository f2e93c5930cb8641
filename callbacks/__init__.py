"""Document consumers: files and live displays made from the documents of runs."""
