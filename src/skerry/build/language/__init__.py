"""The Dockerfile language: bytes to frozen instructions with their places. Pure, reads no file.

`lines` (physical to logical lines, here-documents) < `fields` (words, flags, JSON) < `parser`
(instructions) < `stages` (which stages are needed). `lexer` expands variables, `ignore` holds the
rules of .dockerignore, `lint` what is worth a warning.

Sources: the Dockerfile reference, and BuildKit's observable behaviour where that is silent.
"""
