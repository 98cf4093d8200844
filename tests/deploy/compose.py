"""A compose project as it is meant once its variables have the values of `.env.example`."""

import re

import yaml


def load(folder):
    """The project and its text."""
    text = (folder / "compose.yaml").read_text()
    lines = (folder / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    wanted = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    assert wanted <= set(example), f".env.example lacks {wanted - set(example)}"

    def value(found):
        name, default = found[1], found[2] or ""
        return example.get(name) or default.removeprefix(":-")

    # Anchors are YAML's, which applies them.
    return yaml.safe_load(re.sub(r"(?<!\$)\$\{(\w+)(:[-?][^}]*)?\}", value, text)), text
