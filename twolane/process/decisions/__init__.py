"""OpenAI's decisions: their request, the wording of their questions, and their answers. Pure; used by both programs."""
