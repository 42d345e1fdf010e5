"""One file a noun: what each endpoint takes, calls and answers."""
