"""Near strangers: prompts that resemble the trained tasks, in two sets that share no family.

Features, weights and threshold of the confidence are chosen on `CHOSEN_ON`; `MEASURED_ON` is for measuring only.
"""

import json
import random
from types import MappingProxyType
from typing import Final

from training.gate.rows import Family, Prompt, body_of, held_out
from training.word_lists import ADJECTIVES, NAMES, NOUNS, PLACES, THINGS, invented

_Wordings = MappingProxyType[str, tuple[str, ...]]
_WORDINGS_A: Final[_Wordings] = MappingProxyType(
    {
        "extraction": (
            "Read the order below and return a JSON object.\n{}",
            "order as json please: {}",
            "Convert to JSON: {}",
            "{}\n\nGive me this as JSON with name, qty, item and day.",
            "Extract the fields from this message: {}",
            "Turn this order into JSON - {}",
            "EXTRACT THE ORDER AS JSON: {}",
            "Parse the following customer order.\n\n{}",
        ),
        "clean-up": (
            "Rewrite this commit message in the imperative: {}",
            "Fix the typos: {}",
            "commit subject, cleaned up: {}",
            "{} <- clean up this commit subject",
            "Please tidy this commit title: {}",
            "Clean up the following commit subject.\n{}",
            "Correct the spelling and tense of this commit: {}",
            "clean this commit subject up: {}",
        ),
        "sudoku": (
            "Here is a sudoku: {}. Solve it.",
            "solve: {}",
            "Complete this 4x4 sudoku: {}",
            "Fill in the blanks of the grid {}",
            "Solve the sudoku {}",
            "Solve this puzzle: {}",
            "{} is a sudoku, what is the solution?",
            "Sudoku: {}",
        ),
    }
)
_WORDINGS_B: Final[_Wordings] = MappingProxyType(
    {
        "extraction": (
            "Extract the order in JSON: {}",
            "Extract order as JSON: {}",
            "What was ordered here? Answer in JSON.\n> {}",
            "A customer wrote: {}. Structure it as a JSON record.",
            "I need structured data from this text: {}",
            "Please extract the order as JSON: {}",
            "JSON from order: {}",
            "Could you pull name, quantity, item and day out of '{}'?",
        ),
        "clean-up": (
            "Clean up this commit message: {}",
            "Make this commit subject tidy: {}",
            "This commit subject is sloppy, improve it: {}",
            "Clean up my commit subject: {}",
            "git commit -m '{}' - please write that properly",
            "Clean this commit subject: {}",
            "Proofread: {}",
            'What should the subject line be instead of "{}"?',
        ),
        "sudoku": (
            "Solve this Sudoku: {}",
            "Solve this sudoku please: {}",
            "Which digits are missing in {}?",
            "Find the solution of the following sudoku, row by row.\n{}",
            "Sudoku solver input: {}",
            "Solve this sudoku:\n{}",
            "I am stuck on this sudoku: {}",
            "Solve this grid: {}",
        ),
    }
)


def _wordings(wordings: _Wordings) -> Family:
    def generate(rng: random.Random) -> Prompt:
        task = rng.choice(list(wordings))
        sample = held_out(task, rng.choice((0.0, 0.5)), rng)
        return rng.choice(wordings[task]).format(body_of(sample)), sample.answer

    return generate


def _sudoku(height: int, width: int, notation: str = "_") -> Family:
    """Grids with boxes of height x width, made by shuffling a solved pattern. The answer is the grid without blanks."""
    size = height * width

    def shuffled(rng: random.Random, band: int) -> list[int]:
        bands = rng.sample(range(size // band), size // band)
        return [each * band + line for each in bands for line in rng.sample(range(band), band)]

    def generate(rng: random.Random) -> Prompt:
        digits = rng.sample("123456789"[:size], size)
        rows, columns = shuffled(rng, height), shuffled(rng, width)
        grid = "".join(digits[(width * (r % height) + r // height + c) % size] for r in rows for c in columns)
        blanks = set(rng.sample(range(size * size), rng.randint(size * size // 3, size * size // 2)))
        puzzle = "".join(notation if i in blanks else digit for i, digit in enumerate(grid))
        return f"Solve this sudoku: {puzzle}", grid

    return generate


def _foreign_body(rng: random.Random) -> Prompt:
    """A trained instruction over a text of another kind."""
    topic = [rng.choice((invented(rng), rng.choice(NOUNS + THINGS + PLACES + ADJECTIVES))) for _ in range(12)]
    body = rng.choice(
        (
            f"Merge branch '{topic[0]}' of github.com:{topic[1]}/{topic[2]} into {topic[3]}",
            f"feat({topic[0]}): support {topic[1]} and {topic[2]}, closes #{rng.randint(1, 9999)}",
            f"The {topic[0]} which the {topic[1]} gave to the {topic[2]} was never {topic[3]}, so nobody could see it.",
            f"Dear {topic[0].title()}, thank you for your letter about the {topic[1]}. We will answer soon.",
            f"def {topic[0]}({topic[1]}, {topic[2]}): return {topic[1]} + {topic[2]}",
            f"{topic[0]},{topic[1]},{rng.randint(1, 99)}\n{topic[2]},{topic[3]},{rng.randint(1, 99)}",
            f"Two {topic[0]}s, one {topic[1]} and a dozen {topic[2]}s shall be sent to 12 {topic[3].title()} Street.",
            " ".join(topic),
        )
    )
    prefix = rng.choice(("Clean up this commit subject: ", "Extract the order as JSON: ", "Solve this sudoku: "))
    return prefix + body, None


def _other_object(rng: random.Random) -> Prompt:
    """The trained instructions with another noun."""
    thing, word = rng.choice(THINGS), invented(rng)
    return rng.choice(
        (
            f"Extract the invoice as JSON: {word} owes {rng.randint(1, 900)} for the {rng.choice(NOUNS)}",
            f"Extract the address as JSON: {word}, {rng.randint(1, 99)} {rng.choice(PLACES)} road",
            f"Clean up this branch name: {word}/{thing}--{rng.choice(PLACES)}",
            f"Clean up this sentence: the {thing} are {rng.choice(ADJECTIVES)} becuase of {word}",
            f"Solve this equation: {rng.randint(2, 9)}x + {rng.randint(1, 9)} = {rng.randint(10, 99)}",
            f"Solve this riddle: what is {rng.choice(ADJECTIVES)} and has a {thing}?",
            f"Solve this anagram: {''.join(rng.sample(word, len(word)))}",
            f"Extract the order as XML: {rng.choice(NAMES)} wants {rng.randint(1, 30)} {rng.choice(NOUNS)}",
        )
    ), None


def _repaired_xml(rng: random.Random) -> Prompt:
    tags, name = rng.sample(THINGS, 2), rng.choice(NAMES)
    right = f"<{tags[0]}><{tags[1]}>{name}</{tags[1]}></{tags[0]}>"
    wrong = right.replace(f"</{tags[1]}>", rng.choice(("", f"<{tags[1]}>", f"</{tags[1]}")))
    return f"{rng.choice(('Fix', 'Repair', 'Clean up'))} this XML: {wrong}", right


def _repaired_yaml(rng: random.Random) -> Prompt:
    keys, name = rng.sample(THINGS, 2), rng.choice(NAMES)
    right = f"{keys[0]}:\n  {keys[1]}: {name}"
    wrong = rng.choice((right.replace(": ", ":"), right.replace("  ", "\t"), right.replace(":\n", "\n")))
    return f"{rng.choice(('Fix', 'Repair', 'Clean up'))} this YAML: {wrong}", right


def _repaired_json(rng: random.Random) -> Prompt:
    """Objects with one syntax error, in the words in which people ask for a repair."""
    value = {
        rng.choice(THINGS): rng.choice(NAMES),
        rng.choice(PLACES): rng.randint(1, 999),
        rng.choice(NOUNS): [rng.choice(ADJECTIVES), rng.choice((True, None, 1.5))],
    }
    right = json.dumps(value, separators=rng.choice(((",", ":"), (", ", ": "))))
    wrong = rng.choice(
        (right[:-1], right.replace('"', "'"), right.replace(",", "", 1), right[:-1] + ",}", right.replace(":", "=", 1))
    )
    asked = (
        "Fix this JSON: {}",
        "Repair this JSON: {}",
        "Clean up this JSON: {}",
        "This JSON does not parse, correct it.\n{}",
        "{}\nMake that valid JSON.",
        "Extract the object as JSON: {}",
    )
    return rng.choice(asked).format(wrong), right


CHOSEN_ON: Final[dict[str, Family]] = {
    "other wordings A": _wordings(_WORDINGS_A),
    "Sudoku 6x6": _sudoku(2, 3),
    "Sudoku with dots": _sudoku(2, 2, "."),
    "foreign bodies": _foreign_body,
    "other objects": _other_object,
    "XML repair": _repaired_xml,
    "YAML repair": _repaired_yaml,
}
MEASURED_ON: Final[dict[str, Family]] = {
    "other wordings B": _wordings(_WORDINGS_B),
    "Sudoku 9x9": _sudoku(3, 3),
    "JSON repair": _repaired_json,
}
