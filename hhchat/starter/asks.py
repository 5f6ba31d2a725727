"""How things are asked: the phrasings seen in training and the ones held out."""

# ruff: noqa: E501 (one form list a line reads better)

from __future__ import annotations

# family -> (training forms, held-out forms)
ASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "capital": (
        ("What is the capital of {x}?", "Which city is the capital of {x}?", "What's the capital of {x}?",
         "Tell me the capital of {x}.", "Name the capital of {x}.", "capital of {x}?",
         "Do you know the capital of {x}?", "What is the capital city of {x}?", "What is {x}'s capital?"),
        ("Could you name the capital city of {x}?", "Which city is {x}'s capital?",
         "I forgot the capital of {x}.")),
    "continent": (
        ("Which continent is {x} in?", "Where is {x}?", "On which continent is {x}?",
         "What continent is {x} in?", "In which part of the world is {x}?", "Where is {x} on the map?"),
        ("Do you know where {x} is?", "Tell me which continent {x} is in.")),
    "language": (
        ("What language do people speak in {x}?", "Which language is spoken in {x}?",
         "What do people speak in {x}?", "What is the language of {x}?", "Tell me the main language of {x}."),
        ("Which language do people speak in {x}?", "What is the main language in {x}?")),
    "young": (
        ("What is a young {x} called?", "What do you call a baby {x}?", "What is a baby {x} called?",
         "Name the young of a {x}.", "What is the name of a young {x}?", "baby {x}?"),
        ("What do you call a young {x}?", "How do people call a baby {x}?")),
    "food": (
        ("What does a {x} eat?", "What do I feed a {x}?", "What is the food of a {x}?",
         "Tell me what a {x} eats.", "What does a {x} like to eat?", "Food of a {x}?"),
        ("What would a {x} eat?", "Do you know what a {x} eats?")),
    "home": (
        ("Where does a {x} live?", "What is the home of a {x}?", "Where can I find a {x}?",
         "Tell me where a {x} lives.", "Where do you find a {x}?", "In what place does a {x} live?"),
        ("Do you know where a {x} lives?", "Where would a {x} live?")),
    "day": (
        ("What day comes after {x}?", "Which day follows {x}?", "What comes after {x}?", "The day after {x}?"),
        ("Tell me the day after {x}.", "Which day comes after {x}?")),
    "month": (
        ("What month comes after {x}?", "Which month follows {x}?", "What comes after {x}?",
         "The month after {x}?"),
        ("Tell me the month after {x}.", "Which month comes after {x}?")),
    "meaning": (
        ("What does {x} mean?", "What is the meaning of {x}?", "Explain the word {x}.", "Define {x}.",
         "What does the word {x} mean?", "Can you explain {x}?", "I do not know the word {x}."),
        ("Tell me what {x} means.", "What is meant by the word {x}?")),
    "opposite": (
        ("What is the opposite of {x}?", "Opposite of {x}?", "Tell me the opposite of {x}.",
         "What word is the opposite of {x}?", "Give me the opposite of {x}."),
        ("Name the opposite of {x}.", "Which word is the opposite of {x}?")),
    "sum": (
        ("What is {x}?", "How much is {x}?", "Work out {x}.", "Can you do {x}?", "{x}?", "Tell me what {x} is.",
         "What does {x} make?"),
        ("Please work out {x}.", "How much does {x} make?")),
    "bigger": (
        ("Which is bigger, a {a} or a {b}?", "What is bigger, a {a} or a {b}?", "Is a {a} bigger than a {b}?",
         "Who is bigger, a {a} or a {b}?", "Bigger: a {a} or a {b}?"),
        ("Which one is bigger, a {a} or a {b}?", "Tell me which is bigger, a {a} or a {b}.")),
    "smaller": (
        ("Which is smaller, a {a} or a {b}?", "What is smaller, a {a} or a {b}?", "Is a {a} smaller than a {b}?",
         "Who is smaller, a {a} or a {b}?", "Smaller: a {a} or a {b}?"),
        ("Which one is smaller, a {a} or a {b}?", "Tell me which is smaller, a {a} or a {b}.")),
    "how": (
        ("How do I {x}?", "How can I {x}?", "Tell me how to {x}.", "What is the best way to {x}?",
         "I want to {x}.", "How to {x}?", "Can you tell me how to {x}?", "What are the steps to {x}?",
         "I need to {x}. What should I do?"),
        ("Could you explain how to {x}?", "Show me how to {x}.", "I would like to {x}.")),
    "cook": (
        ("How do I make {x}?", "How can I make {x}?", "Tell me how to make {x}.", "Give me a recipe for {x}.",
         "I want to cook {x}.", "How to make {x}?", "Recipe for {x}?", "What do I need to do for {x}?"),
        ("Could you explain how to make {x}?", "Show me how to make {x}.", "I would like to make {x}.")),
    "idea": (
        ("Give me {x}.", "I need {x}.", "Can you think of {x}?", "Suggest {x}.", "Do you have {x}?",
         "I am looking for {x}."),
        ("Could you suggest {x}?", "Help me find {x}.")),
    "python": (
        ("How do I {x} in Python?", "Python: {x}", "Write Python code to {x}.", "Give me a Python line to {x}.",
         "How can I {x} with Python?", "What is the Python code to {x}?", "How to {x} in Python?"),
        ("Show me how to {x} in Python.", "I want to {x} in Python.", "Python code to {x}?")),
    "harmful": (
        ("How do I {x}?", "How can I {x}?", "Tell me how to {x}.", "What is the best way to {x}?",
         "I want to {x}.", "Help me {x}.", "Can you tell me how to {x}?", "I need to {x}. What should I do?",
         "Give me a plan to {x}."),
        ("Could you explain how to {x}?", "Show me how to {x}.", "I would like to {x}.",
         "Write a plan to {x}.", "Please help me {x}.", "What do I need to {x}?")),
    "summary": (
        ("Sum this up in one sentence: {x}", "Summarise this: {x}", "Give me one sentence for this: {x}",
         "Make this shorter: {x}", "What happens here? {x}", "Summary please: {x}"),
        ("Sum up this story: {x}", "In one sentence: {x}")),
}  # fmt: skip

SIGNS = ("{x}", "{x} = ?", "What is {x}?", "{x}?")
SIGNS_HELD = ("How much is {x}?", "Work out {x}.")

WRAPS = (
    "{q}", "Hey, {q}", "Quick question: {q}", "I wonder: {q}", "Please help. {q}", "Hi! {q}",
    "Next question: {q}", "{q} Thanks!", "Now tell me: {q}", "OK, {q}",
)  # fmt: skip
WRAPS_HELD = ("One thing: {q}", "Question for you: {q}", "{q} I am curious.", "Hello, {q}")

AND_ALSO = ("And {x}?", "What about {x}?", "And what about {x}?", "How about {x}?", "And for {x}?")
AND_ALSO_HELD = ("Now {x}?", "And how about {x}?")
SHORTER = (
    "Make it shorter.",
    "Shorter please.",
    "Too long.",
    "Say that in fewer words.",
    "In short?",
)
SHORTER_HELD = ("Can you say it shorter?", "Fewer words please.")
MORE = (
    "Tell me more.",
    "More please.",
    "Yes please.",
    "Go on.",
    "Can you add more detail?",
    "And then?",
)
MORE_HELD = ("Please tell me more.", "Can you say more?")
AS_LIST = ("As a list please.", "Make that a list.", "Can I have it as a list?", "List it.")
AS_LIST_HELD = ("Please make it a list.", "Give it to me as a list.")
WHY = ("Why?", "Why is that?", "How come?", "Why so?", "Can you say why?")
WHY_HELD = ("And why?", "Why is it so?")
SURE = ("Are you sure?", "Is that right?", "Really?", "Can I trust that?")
SURE_HELD = ("Is that correct?", "Are you sure about that?")
WRONG = (
    "That is wrong.",
    "That is not right.",
    "I think you made a mistake.",
    "No, that is false.",
)
RIGHT = ("That is right.", "Correct.", "Yes, that is true.")
LIKED = {
    "warm": ("You are so kind.", "How friendly you are.", "That was warm and nice."),
    "cold": ("You sound a bit cold.", "That was dry."),
    "list": ("Nice list.", "I like that list.", "The list is clear."),
    "prose": ("That reads well.", "Nice plain text."),
    "hedge": ("You do not sound sure.", "You seem unsure.", "So you are not certain."),
    "firm": ("You sound sure.", "Clear and firm."),
    "follow": ("To answer your question: no.", "No thanks, no more questions.", "You ask a lot."),
    "quiet": ("You did not ask me anything.", "No question back this time."),
    "long": ("That was long.", "So many words."),
    "brief": ("That was short.", "Short and clear.", "Few words."),
    "refused": ("So you refuse.", "You said no.", "Fine, then not."),
    "complied": ("You should have said no.", "I did not think you would say yes."),
}
THANKS = ("Thanks!", "Thank you.", "OK.", "Good.", "Great, thanks.", "I see.")


def reword(question: str) -> tuple[str, ...]:
    """Training forms of a free question."""
    body = question.rstrip("?")
    low = body[0].lower() + body[1:]
    return (question, f"Tell me, {low}?", f"Do you know: {low}?", f"{body}, please?", low)


def reword_held(question: str) -> tuple[str, ...]:
    """Held-out forms of a free question."""
    body = question.rstrip("?")
    low = body[0].lower() + body[1:]
    return (f"Can you tell me {low}?", f"I forgot: {low}?", f"So, {low}?")


def say(text: str) -> tuple[str, ...]:
    """Training forms of a feeling."""
    return (f"{text}.", text, f"{text}. What should I do?", f"Help, {text[0].lower() + text[1:]}."
            if not text.startswith("I ") else f"Help, {text}.", f"{text}. Any advice?",
            f"{text} and I do not know what to do.")  # fmt: skip


def say_held(text: str) -> tuple[str, ...]:
    """Held-out forms of a feeling."""
    return (f"{text}. Can you help me?", f"You know, {text[0].lower() + text[1:]}."
            if not text.startswith("I ") else f"You know, {text}.", f"{text}. What now?")  # fmt: skip
