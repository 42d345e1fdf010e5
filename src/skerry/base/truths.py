"""The words that Go's strconv.ParseBool takes, in Docker's filters, options and URLs."""

TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
