"""One module a noun or a verb; each has COMMANDS: name to Command."""
