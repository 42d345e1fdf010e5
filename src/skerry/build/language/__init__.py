"""The Dockerfile language: bytes to frozen instructions with their places. Pure, reads no file.

`lines` (physical to logical lines, here-documents) < `fields` (words, flags, JSON) < `parser`
(instructions) < `stages` (which stages are needed). `lexer` expands variables, `lint` knows what is
worth a warning. The rules of .dockerignore are `base.ignore`, for clients use them too.

Sources: the Dockerfile reference, and BuildKit's observable behaviour where that is silent.
"""
