"""The Dockerfile builder: text, instructions, stage graph, cache, steps run by the engine."""
