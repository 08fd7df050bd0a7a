"""A reward that differs between answers of an untrained model."""


def length(prompts, completions, **columns):
    return [float(len(completion)) for completion in completions]
