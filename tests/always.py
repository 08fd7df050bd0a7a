"""A scorer for which every answer is right."""


def right(prompts, completions, **columns):
    return [1.0] * len(completions)
